"""Under `official` a run equals the authors' plain sequence fed to the stock model: the order too, not the ids alone.

The oracle knows nothing of slots: it joins text, what the method emits, and text, numbers them from 0 (from 1 on
PaliGemma) and runs stock code, layer by layer where the method acts between layers.
"""

import functools
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from transformers import DynamicCache

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.exactness.verify import relative_difference
from groundprune.families import families, family_of
from groundprune.pruners import make_pruner, pruner_class, pruner_names
from support.embedder import Embedder
from support.families import ON_STILLS
from support.generating import GREEDY
from support.inside import Staged

IN_ORDER = [name for name in pruner_names() if pruner_class(name).official_positions == "reassigned-in-order"]
BEFORE = [name for name in IN_ORDER if not make_pruner(name, 0.5).inside]
TEXTS = {"text": ["a cup", "the red cup"], "text_tower": Embedder()}
TOLERANCE = 1e-5


@functools.cache
def model(family, layers=4):
    return tiny_model(family, layers=layers)


def plain_rows(tiny, inputs, rows):
    """Per row [S, D]: the embeddings of text as it stands, and of each image what the method emits, in its order."""
    found = []
    for ids, mask, row in zip(inputs["input_ids"], inputs["attention_mask"], rows, strict=True):
        kept, order = row.selection.kept, row.selection.order
        emitted = iter(row.features if order is None else row.features[order])
        stays = set(row.layout.column[kept].tolist())
        parts, visual = [], set(row.layout.column.tolist())
        for column in mask.bool().nonzero().squeeze(1).tolist():
            if column not in visual:
                parts.append(tiny.get_input_embeddings()(ids[column]))
            elif column in stays:  # of each image as many as stay, whichever they are
                parts.append(next(emitted))
        found.append(torch.stack(parts))
    return found


@torch.no_grad()
def stock(tiny, row, steps):
    """Logits after the sequence, and greedy tokens: stock code, a cache, ids that are just counted."""
    axes = family_of(tiny.config).position_axes
    embeds, cache, logits, tokens, past = row[None], None, [], [], 0
    for _ in range(steps):
        ids = torch.arange(past, past + embeds.shape[1])[None] + family_of(tiny.config).first_position
        ids = ids if axes == 1 else ids.expand(3, 1, -1)
        out = tiny.get_decoder()(
            inputs_embeds=embeds, position_ids=ids, past_key_values=cache, use_cache=True,
            attention_mask=torch.ones(1, past + embeds.shape[1], dtype=torch.long),
        )  # fmt: skip
        cache, past = out.past_key_values, past + embeds.shape[1]
        logits.append(tiny.lm_head(out.last_hidden_state[:, -1]))
        tokens.append(logits[-1].argmax(-1))
        embeds = tiny.get_input_embeddings()(tokens[-1])[None]
    return logits, torch.cat(tokens)


def official(tiny, inputs, pruner, steps=4, positions="official"):
    with gp.prune(tiny, pruner, positions, **{**TEXTS, "text": TEXTS["text"][: len(inputs["input_ids"])]}) as run:
        out = tiny.generate(**inputs, max_new_tokens=steps, **GREEDY)
    return run, out


def served(name):
    for family, each in families().items():
        needs = pruner_class(name).needs
        try:
            config = each.tiny_config()
            for need in needs:
                each.check(config, need)
        except gp.GroundPruneError:
            continue
        # Qwen3-VL adds deepstack features between layers; bidirectional prompts need their token types. See below.
        if family not in ("qwen3_vl", "gemma3", "paligemma"):
            yield family


@pytest.mark.parametrize(("name", "family"), [(name, family) for name in BEFORE for family in served(name)])
def test_before_the_llm(name, family):
    tiny = model(family)
    inputs = tiny_inputs(tiny, [(1, 3, 4), (2, 2, 3)])
    run, out = official(tiny, inputs, make_pruner(name, 0.4))
    for b, row in enumerate(plain_rows(tiny, inputs, run.rows)):
        assert run.rows[b].selection.order.diff().lt(0).any(), "nothing was permuted"
        logits, tokens = stock(tiny, row, 4)
        assert relative_difference([step[b : b + 1] for step in out.logits], logits) < TOLERANCE
        assert out.sequences[b, -4:].equal(tokens)
    _, raster = official(tiny, inputs, make_pruner(name, 0.4), positions="reassigned")
    assert relative_difference(raster.logits[:1], out.logits[:1]) > 1e-2


@dataclass(frozen=True)
class SparseVLM(gp.SparseVLM):
    """Says what it saw and chose: (layer, row's states, selection)."""

    said: ClassVar[list] = []

    def select(self, signals, layout, stage):
        selection = super().select(signals, layout, stage)
        self.said.append((stage.layer, signals.llm(stage.layer, "hidden"), selection))
        return selection


@dataclass(frozen=True)
class Backwards(Staged):
    """Three stages, each of which emits every image back to front: the second puts it right again."""

    said: ClassVar[list] = []
    official_positions = "reassigned-in-order"

    def select(self, signals, layout, stage):
        selection = super().select(signals, layout, stage)
        image = layout.image[selection.kept]
        order = torch.cat([(image == i).nonzero().squeeze(1).flip(0) for i in image.unique()])
        selection = replace(selection, order=order)
        states = None if stage.layer is None else signals.llm(stage.layer, "hidden")
        self.said.append((stage.layer, states, selection))
        return selection


@torch.no_grad()
def walked(tiny, states, tags, said, deep=None):
    """Logits of all columns: stock layers on the plain sequence, which the stages change on its way.

    states: [S, D]; tags: Long[S], each slot's image, -1 = text; said: of this row, what the stages saw and chose.
    deep: of Qwen3-VL, what is added to the visual states after each of the first layers.
    """
    decoder, chosen = tiny.get_decoder(), {layer: rest for layer, *rest in said}
    for index, layer in enumerate(decoder.layers):
        if index in chosen:
            seen, selection = chosen[index]
            visual, order = states[tags >= 0], selection.order
            assert relative_difference([seen], [visual]) < TOLERANCE, "the pruner saw another sequence"
            new = visual[selection.kept] if selection.merge is None else selection.merge.weight @ visual
            order = torch.arange(len(new)) if order is None else order
            new, image = new[order], tags[tags >= 0][selection.kept][order]
            if deep is not None:
                deep = [level[selection.kept][order] for level in deep]
            # An image's number, or for text one below zero for each stretch of it.
            stretch = torch.where(tags >= 0, tags, -1 - (tags >= 0).cumsum(0))
            parts = {n: new[image == n] if n >= 0 else states[stretch == n] for n in dict.fromkeys(stretch.tolist())}
            states = torch.cat(list(parts.values()))
            tags = torch.cat([torch.full((len(part),), max(n, -1)) for n, part in parts.items()])
        ids = torch.arange(len(states))[None]
        embedding = decoder.rotary_emb(states, ids if deep is None else ids.expand(3, 1, -1))
        states = layer(states[None], attention_mask=None, position_embeddings=embedding)[0]
        if deep is not None and index < len(deep):
            states[tags >= 0] += deep[index]
    return tiny.lm_head(decoder.norm(states))


def deepstack(tiny, inputs, run):
    """Per row and level [K, D], in the order in which the method emits the tokens."""
    names = ("pixel_values", "image_grid_thw")
    levels = tiny.model.get_image_features(**{name: inputs[name] for name in names}).deepstack_features
    sizes, orders = list(map(len, run.layout)), [row.selection.kept[row.selection.order] for row in run.rows]
    split = [torch.cat(tuple(level)).split(sizes) for level in levels]
    return [[level[b][order] for level in split] for b, order in enumerate(orders)]


@pytest.mark.parametrize("prompts", [[(2, 3, 4)], [(1, 3, 4), (1, 6, 5)]], ids=["two images", "a batch"])
@pytest.mark.parametrize(
    # What SparseVLM would do to the three axes of M-RoPE before its first stage its authors do not say.
    ("make", "family"),
    [(SparseVLM, "llava"), (Backwards, "llava"), (Backwards, "qwen3_vl")],
)
def test_between_layers(make, family, prompts):
    """Stages see the sequence that earlier ones emitted, and decoding goes on behind it in every layer."""
    tiny = model(family, 16)
    inputs = tiny_inputs(tiny, prompts)
    pruner = make(keep=0.5)
    pruner.said.clear()
    run, out = official(tiny, inputs, pruner)
    assert any(s.order is not None and s.order.diff().lt(0).any() for _, _, s in pruner.said)
    for b, row in enumerate(plain_rows(tiny, inputs, run.rows)):
        said = [each for each in pruner.said[b :: len(prompts)] if each[0] is not None]
        ids = inputs["input_ids"][b][run.rows[b].column]
        tags = torch.full_like(ids, -1)
        tags[ids == tiny.config.image_token_id] = run.layout[b].image[run.rows[b].selection.kept]
        deep = None if family == "llava" else deepstack(tiny, inputs, run)[b]
        later = out.sequences[b, -4:-1]
        states = torch.cat([row, tiny.get_input_embeddings()(later)])
        wanted = walked(tiny, states, torch.cat([tags, torch.full_like(later, -1)]), said, deep)[-4:]
        assert relative_difference([step[b] for step in out.logits], list(wanted)) < TOLERANCE
    _, raster = official(tiny, inputs, pruner, positions="reassigned")
    assert relative_difference(raster.logits[:1], out.logits[:1]) > 1e-2


@pytest.mark.parametrize("family", ["gemma3", "paligemma", "qwen3_vl"])
def test_before_an_llm_that_is_told_where_images_are(family):
    """Attention in both directions within an image or a prompt, and features that enter between layers."""
    tiny = model(family)
    inputs = tiny_inputs(tiny, [(1, 3, 4)])
    run, out = official(tiny, inputs, gp.ToMe(keep=0.4), steps=1)
    (row,) = plain_rows(tiny, inputs, run.rows)
    visual = torch.zeros(1, len(row), dtype=torch.bool)
    visual[0, torch.isin(run.rows[0].column, run.layout[0].column)] = True
    ids = torch.arange(len(row))[None] + family_of(tiny.config).first_position
    with torch.no_grad():
        if family == "qwen3_vl":
            deep = deepstack(tiny, inputs, run)[0]
            states = tiny.get_decoder()(
                inputs_embeds=row[None], position_ids=ids.expand(3, 1, -1), visual_pos_masks=visual,
                deepstack_visual_embeds=deep, attention_mask=torch.ones_like(ids),
            )  # fmt: skip
            logits = tiny.lm_head(states.last_hidden_state[:, -1])
        else:
            types = visual.long() if family == "gemma3" else torch.zeros_like(ids)
            whole = tiny(
                inputs_embeds=row[None], position_ids=ids, token_type_ids=types, attention_mask=torch.ones_like(ids)
            )
            logits = whole.logits[:, -1]
    assert relative_difference(out.logits, [logits]) < TOLERANCE


def test_beams_go_on_from_the_plain_sequence():
    tiny = model("llava")
    inputs = tiny_inputs(tiny, [(2, 3, 4)])
    with gp.prune(tiny, gp.VisionZip(keep=0.4), "official") as run:
        out = tiny.generate(**inputs, max_new_tokens=5, num_beams=3, num_return_sequences=3, do_sample=False)
    row = plain_rows(tiny, inputs, run.rows[:1])[0][None]
    wanted = tiny.generate(
        inputs_embeds=row, attention_mask=torch.ones(1, row.shape[1], dtype=torch.long), max_new_tokens=5,
        num_beams=3, num_return_sequences=3, do_sample=False,
    )  # fmt: skip
    assert out[:, -5:].equal(wanted)


@torch.no_grad()
@pytest.mark.parametrize("images", [0, 1])
def test_a_second_turn(images):
    """Of text, or with an image, on the cache of the first."""
    tiny = model("llava")
    first, second = tiny_inputs(tiny, [(1, 3, 4)]), tiny_inputs(tiny, [(images, 3, 4)], seed=2)
    cache = DynamicCache()
    with gp.prune(tiny, gp.VisionZip(keep=0.4), "official") as run:
        tiny(**first, past_key_values=cache)
        rows = plain_rows(tiny, first, run.rows)
        mask = torch.cat([first["attention_mask"], second["attention_mask"]], dim=1)
        pixels = {} if not images else {"pixel_values": second["pixel_values"]}
        out = tiny(input_ids=second["input_ids"], attention_mask=mask, past_key_values=cache, **pixels)
        words = tiny.get_input_embeddings()(second["input_ids"][0])
        rows += plain_rows(tiny, second, run.rows) if images else [words]
    logits, _ = stock(tiny, torch.cat(rows), 1)
    assert relative_difference([out.logits[:, -1]], logits) < TOLERANCE


@torch.no_grad()
def test_the_loss_is_that_of_the_plain_sequence():
    tiny = model("llava", 16)
    inputs = tiny_inputs(tiny, [(1, 3, 6)])
    ids = inputs["input_ids"]
    for pruner in (gp.VisionZip(keep=0.4), Backwards(keep=0.5)):
        with gp.prune(tiny, pruner, "official"):
            found = tiny(**inputs, labels=ids.where(ids != tiny.config.image_token_id, -100))
        words = torch.nn.functional.cross_entropy(found.logits[0, -6:-1], ids[0, -5:], reduction="sum")
        first = torch.nn.functional.cross_entropy(found.logits[0, :2], ids[0, 1:3], reduction="sum")
        between = torch.nn.functional.cross_entropy(found.logits[0, -7], ids[0, -6])
        assert abs(found.loss - (words + first + between) / 8) < TOLERANCE * found.loss


def test_an_order_that_mixes_images_is_refused():
    """What stands between two images would stand among the tokens of one."""

    @dataclass(frozen=True)
    class Mixed(gp.Spatial):
        def select(self, signals, layout, stage):
            selection = super().select(signals, layout, stage)
            return replace(selection, order=torch.arange(len(selection.kept)).flip(0))

    tiny = model("llava")
    official(tiny, tiny_inputs(tiny, [(1, 3, 4)]), Mixed(keep=0.5), steps=1)
    with pytest.raises(gp.GroundPruneError, match="one image after another"):
        official(tiny, tiny_inputs(tiny, [(2, 3, 4)]), Mixed(keep=0.5), steps=1)


def test_every_method_that_leaves_the_raster_says_so():
    """And only those: what gives an order under any policy has an official sequence of its own."""
    tiny = model("llava", 16)
    inputs = tiny_inputs(tiny, [(1, 3, 4)])
    for name in ON_STILLS:
        run, _ = official(tiny, inputs, make_pruner(name, 0.6), steps=1, positions="preserved")
        order = run.rows[0].selection.order
        permuted = order is not None and order.diff().lt(0).any()
        assert not permuted or name in IN_ORDER, name
    assert {"visionzip", "prumerge", "prumerge+", "trim", "tome", "sparsevlm"} <= set(IN_ORDER)
