"""Pruning written the ways forks write it: on the decoder's inputs, between layers, inside of attention."""

import contextlib
import functools

import torch

from groundprune.families import family_of


def call(plant, steps=3):
    """What `gp.audit` runs: generate under a planted patch."""

    def run(model, inputs):
        with plant(model, inputs) if plant is not None else contextlib.nullcontext():
            model.generate(**inputs, max_new_tokens=steps, min_new_tokens=steps, do_sample=False)

    return run


def kept_columns(model, inputs, every=3):
    """Of the first row: its text, and one visual token in `every` but one, in no even grid."""
    visual = visual_columns(model, inputs)
    rank = visual.cumsum(0) - 1
    return (~visual | (rank % every == 0) | (rank % 5 == 3)).nonzero().squeeze(1)


def visual_columns(model, inputs):
    tokens = torch.tensor(list(family_of(model.config).token_ids(model.config).values()))
    return torch.isin(inputs["input_ids"][0], tokens)


def unpruned(model, inputs):
    """Long[A, B, L]"""
    return family_of(model.config).positions(model.base_model, inputs)


@contextlib.contextmanager
def hooked(module, change):
    """change(kwargs) before each call."""
    handle = module.register_forward_pre_hook(lambda m, args, kwargs: (args, change(kwargs)), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def as_given(ids):
    """[A, B, S] as decoders take them."""
    return ids if len(ids) > 1 else ids[0]


# Before the LLM: (model, inputs, kept: Long[K]) -> Long[A, B, K], or None: as the decoder counts itself


def arange(model, inputs, kept):
    return None


def cumsum(model, inputs, kept):
    mask = torch.ones(1, len(kept), dtype=torch.long)
    return (mask.cumsum(-1) - 1)[None].expand(len(unpruned(model, inputs)), -1, -1)


def gathered(model, inputs, kept):
    return unpruned(model, inputs)[..., kept]


def image_renumbered(model, inputs, kept):
    ids = gathered(model, inputs, kept).clone()
    mine = visual_columns(model, inputs)[kept]
    ids[..., mine] = ids[..., mine].amin() + torch.arange(int(mine.sum()))
    return ids


def before(ids, order=None, step=None, move=0, decode="unpruned"):
    """Rows of embeddings are dropped, ids made by a rule.

    order: of the kept, a function. step: which decode step goes one too far. move: how far the id of one visual
    token is moved. decode: "unpruned" length or "cache" length.
    """

    @contextlib.contextmanager
    def plant(model, inputs):
        kept = kept_columns(model, inputs)
        kept = kept if order is None else order(kept, visual_columns(model, inputs)[kept])
        made = ids(model, inputs, kept)
        count = {"steps": 0}
        last = int(unpruned(model, inputs)[..., -1].max())

        def change(kwargs):
            states, position = kwargs["inputs_embeds"], made
            new = states.shape[1]
            if new > 1:
                if position is None and move:
                    position = cumsum(model, inputs, kept)
                if move:
                    position = position.clone()
                    position[..., visual_columns(model, inputs)[kept].nonzero()[2]] += move
                states = states[:, kept]
            else:
                count["steps"] += 1
                far = last + count["steps"] + (count["steps"] == step)
                axes = len(unpruned(model, inputs))
                position = torch.full((axes, 1, 1), far) if decode == "unpruned" else None
            mask = torch.ones(1, len(kept) + count["steps"], dtype=torch.long)
            position = None if position is None else as_given(position)
            return {**kwargs, "inputs_embeds": states, "position_ids": position, "attention_mask": mask}

        with hooked(model.get_decoder(), change):
            yield

    return plant


def between(layer, rotation, move=0):
    """From a layer on hidden states are gathered; rotation: "recomputed" from how many are left, or "gathered"."""

    @contextlib.contextmanager
    def plant(model, inputs):
        kept = kept_columns(model, inputs)
        decoder = model.get_decoder()
        original = unpruned(model, inputs)
        ids = original[..., kept] if rotation == "gathered" else torch.arange(len(kept)).expand(len(original), 1, -1)
        ids = ids.clone()
        ids[..., visual_columns(model, inputs)[kept].nonzero()[2]] += move
        causal = torch.ones(len(kept), len(kept), dtype=torch.bool).tril()[None, None]

        def rotary(states, position):
            return decoder.rotary_emb(states, position_ids=as_given(position))

        def gather(first, module, args, kwargs):
            states = args[0]
            if states.shape[1] == 1:
                past = int(kwargs["past_key_values"].get_seq_length(module.self_attn.layer_idx))
                if rotation == "recomputed":
                    turned = rotary(states, torch.full((len(original), 1, 1), past))
                    kwargs = {**kwargs, "position_embeddings": turned}
                return args, {**kwargs, "attention_mask": None}
            states = states[:, kept] if first else states
            return (states, *args[1:]), {
                **kwargs, "position_embeddings": rotary(states, ids), "attention_mask": causal
            }  # fmt: skip

        with contextlib.ExitStack() as stack:
            for index, each in enumerate(decoder.layers[layer:]):
                hook = functools.partial(gather, index == 0)
                stack.callback(each.register_forward_pre_hook(hook, with_kwargs=True).remove)
            yield

    return plant


def inside_attention(move=0, whole=False):
    """Rows are dropped before; each attention computes its rotation from its cache's length, and its rows eagerly.

    whole: prefill is right, but the cache holds keys as they are projected, and a step rotates all of them anew.
    """

    @contextlib.contextmanager
    def plant(model, inputs):
        decoder = model.get_decoder()
        axes = len(unpruned(model, inputs))
        moved = visual_columns(model, inputs)[kept_columns(model, inputs)].nonzero()[2]

        def forward(self, hidden_states, past_key_values=None, **kwargs):
            new, past = hidden_states.shape[1], int(past_key_values.get_seq_length(self.layer_idx))
            ids = torch.arange(0 if whole else past, past + new).expand(axes, 1, -1).clone()
            if new > 1:
                ids = gathered(model, inputs, kept_columns(model, inputs)) if whole else ids
                ids[..., moved] += move
            cosine, sine = decoder.rotary_emb(hidden_states, position_ids=as_given(ids))
            query, key, value = (
                project(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
                for project in (self.q_proj, self.k_proj, self.v_proj)
            )
            key = key if whole else _rotated(key, cosine, sine)
            key, value = past_key_values.update(key, value, self.layer_idx)
            query, key = _rotated(query, cosine, sine), _rotated(key, cosine, sine) if whole else key
            repeat = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
            weights = query @ key.transpose(-1, -2) / self.head_dim**0.5
            causal = torch.ones(new, key.shape[2], dtype=torch.bool).tril(past)
            weights = weights.masked_fill(~causal, -1e9).softmax(-1)
            return self.o_proj((weights @ value).transpose(1, 2).flatten(2)), weights

        with before(arange, decode="cache")(model, inputs), contextlib.ExitStack() as stack:
            for layer in decoder.layers:
                attention = layer.self_attn
                attention.forward = forward.__get__(attention)
                stack.callback(delattr, attention, "forward")
            yield

    return plant


def _rotated(states, cosine, sine):
    cosine, sine = (each[:, None, -states.shape[2] :] for each in (cosine, sine))
    first, second = states.chunk(2, -1)
    return states * cosine + torch.cat([-second, first], -1) * sine


def backwards(kept, visual):
    """Visual tokens from the last to the first, text where it was."""
    found = kept.clone()
    found[visual] = kept[visual].flip(0)
    return found


def tail(model, inputs):
    """How words behind the image, and generated ones, are called where they count on from what is left."""
    ahead = len(kept_columns(model, inputs)) - 1 - int(unpruned(model, inputs)[..., -1].max())
    return f"pushed back by {ahead}" if ahead > 0 else f"moved up by {-ahead}"


# name: (the patch, given how far one id is moved; what its visual ids are called; and the verdict, in part)
PLANTS = {
    "rows dropped, ids from arange": (
        lambda move=0: before(arange, move=move, decode="cache"), "renumbered", "text behind them {tail}"),
    "ids from the compact mask": (
        lambda move=0: before(cumsum, move=move, decode="cache"), "renumbered", "generated tokens {tail}"),
    "ids gathered": (lambda move=0: before(gathered, move=move), "preserved", "preserved"),
    "ids gathered, next from the cache": (
        lambda move=0: before(gathered, move=move, decode="cache"), "preserved",
        "not preserved: generated tokens {tail}"),
    "image renumbered, text kept": (
        lambda move=0: before(image_renumbered, move=move), "renumbered per image",
        "not preserved: visual ids renumbered per image"),
    "reordered, ids gathered": (
        lambda move=0: before(gathered, backwards, move=move), "preserved", "not preserved: tokens reordered"),
    "reordered, ids from arange": (
        lambda move=0: before(arange, backwards, move=move, decode="cache"), "renumbered", "tokens reordered"),
    "a step off by one": (
        lambda move=0: before(gathered, step=2, move=move), "preserved",
        "not preserved: generated tokens 1 of 2 moved, token 1 by +1"),
    "between layers, recomputed": (
        lambda move=0: between(2, "recomputed", move), "renumbered", "visual ids renumbered from layer 2 on"),
    "between layers, gathered": (lambda move=0: between(2, "gathered", move), "preserved", "preserved"),
    "inside attention": (
        lambda move=0: inside_attention(move), "renumbered", "not preserved: visual ids renumbered; "),
}  # fmt: skip
