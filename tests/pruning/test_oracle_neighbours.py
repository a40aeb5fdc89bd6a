"""What users do next to a first prompt, in every family, against the masked oracle: turns, resets, threads, wrappers.

Each case gives the book of the whole conversation (ids, mask, token types, grids), as a processor does.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import DynamicCache, StaticCache

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.exactness.verify import relative_difference
from groundprune.families import families, family_of
from groundprune.probes.tower import recordable
from groundprune.pruning.encoding import encode_inputs
from support.families import BETWEEN_LAYERS
from support.generating import TOLERANCE, generate
from support.inside import LastRow, Staged
from support.versions import needs_later_images

NAMES = list(families())
BEFORE, INSIDE = gp.Spatial(keep=0.4), Staged(keep=0.4)
model_of = functools.cache(functools.partial(tiny_model, layers=4))


each_family = pytest.mark.parametrize("name", NAMES)
each_with_stages = pytest.mark.parametrize("name", BETWEEN_LAYERS)


def cache_of(model, static=False):
    config = model.config.get_text_config()
    return StaticCache(config=config, max_cache_len=192) if static else DynamicCache(config=config)


def book(model, ids):
    """What a processor gives for a conversation, images apart."""
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        **family_of(model.config).tiny_visuals(model.config).extra(ids),
    }


def later_turn(model, said, inputs, grids):
    """The whole conversation, and the images of its last turn alone; grids (M-RoPE): of all images."""
    needs = recordable(gp.ClsVisual.needs)
    encoded = encode_inputs(model.base_model, family_of(model.config), inputs, needs)["mm_encoder_outputs"]
    turn = book(model, torch.cat([said, inputs["input_ids"]], 1))
    return {**turn, **grids, "mm_encoder_outputs": encoded}


def grids_of(*prompts):
    found = [prompt["image_grid_thw"] for prompt in prompts if "image_grid_thw" in prompt]
    return {"image_grid_thw": torch.cat(found)} if found else {}


def two_turns(model, first, more, cache=None):
    """first: inputs; more: Long[1, M] of a turn of text, or the inputs of a turn with an image."""
    cache = cache_of(model) if cache is None else cache
    said = generate(model, first, past_key_values=cache).sequences
    if torch.is_tensor(more):
        turn = book(model, torch.cat([said, more], 1))
    else:
        turn = later_turn(model, said, more, grids_of(first, more))
    return generate(model, turn, past_key_values=cache)


def equals_oracle(model, run, pruned, turns):
    with hide(model, hidden_columns(run.prompt)):
        wanted = turns()
    assert pruned.sequences.equal(wanted.sequences)
    assert relative_difference(pruned.logits, wanted.logits) < TOLERANCE
    return wanted


def words_of(model, count):
    ids = torch.randint(2, 80, (1, count), generator=torch.Generator().manual_seed(count))
    return book(model, ids)


def text_turn_equals_oracle(model, pruner):
    """Few words behind the image: the turn's compact columns are those where the unpruned image stood."""
    turns = functools.partial(two_turns, model, tiny_inputs(model, [(1, 5, 1)]), torch.tensor([[11, 12, 13, 14, 15]]))
    with gp.prune(model, pruner) as run:
        pruned = turns()
    wanted = equals_oracle(model, run, pruned, turns)
    with gp.prune(model, pruner, "reassigned"):
        control = turns()
    assert relative_difference(control.logits[:1], wanted.logits[:1]) > 1e-3


@each_family
def test_a_later_turn_of_text(name):
    text_turn_equals_oracle(model_of(name), BEFORE)


@each_with_stages
def test_a_later_turn_of_text_behind_stages(name):
    text_turn_equals_oracle(model_of(name), INSIDE)


@needs_later_images
@each_family
def test_an_image_in_a_later_turn(name):
    model = model_of(name)
    turns = functools.partial(
        two_turns, model, tiny_inputs(model, [(1, 5, 7)]), tiny_inputs(model, [(1, 3, 4)], seed=5)
    )
    with gp.prune(model, BEFORE) as run:
        pruned = turns()
    equals_oracle(model, run, pruned, turns)


@needs_later_images
@each_family
def test_an_image_behind_a_turn_of_text(name):
    model = model_of(name)
    turns = functools.partial(two_turns, model, words_of(model, 9), tiny_inputs(model, [(1, 3, 4)], seed=5))
    with gp.prune(model, BEFORE) as run:
        pruned = turns()
    equals_oracle(model, run, pruned, turns)


@each_family
def test_three_turns_of_text_each_on_the_last(name):
    model = model_of(name)
    first, cache = tiny_inputs(model, [(1, 5, 7)]), []

    def turns():
        cache[:] = [cache_of(model)]
        said = generate(model, first, past_key_values=cache[0])
        for word in (11, 12):
            ids = torch.cat([said.sequences, torch.full((1, 3), word)], 1)
            turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}  # no types: as text alone is asked
            said = generate(model, turn, past_key_values=cache[0])
        return said

    with gp.prune(model, BEFORE) as run:
        pruned = turns()
    equals_oracle(model, run, pruned, turns)


@each_family
@pytest.mark.parametrize("keep", [0.4, 1], ids=["pruned", "all kept"])
def test_a_static_cache_that_was_reset(name, keep):
    """The second conversation gets what it gets on a new cache."""
    model = model_of(name)
    first, second = tiny_inputs(model, [(1, 5, 7)]), tiny_inputs(model, [(1, 3, 4)], seed=5)
    with gp.prune(model, gp.Spatial(keep=keep)):
        wanted = generate(model, second, past_key_values=cache_of(model, static=True))
        cache = cache_of(model, static=True)
        generate(model, first, past_key_values=cache)
        cache.reset()
        got = generate(model, second, past_key_values=cache)
    with gp.prune(model, gp.Spatial(keep=keep)):
        dynamic = generate(model, second)
    for other in (wanted, got):
        assert other.sequences.equal(dynamic.sequences)
        assert relative_difference(other.logits, dynamic.logits) < TOLERANCE


@each_with_stages
@pytest.mark.parametrize("words", [1, 6])
def test_a_cache_of_stages_in_a_context_without(name, words):
    """It goes on from the cache's own state, or is refused in a line."""
    model = model_of(name)
    first, more = tiny_inputs(model, [(1, 5, 7)]), torch.full((1, words), 11)

    def second(cache, said):
        ids = torch.cat([said, more], 1)
        return generate(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, past_key_values=cache)

    found = []
    for other in (INSIDE, BEFORE):
        cache = cache_of(model)
        with gp.prune(model, INSIDE, "reassigned"):
            said = generate(model, first, past_key_values=cache).sequences
        with gp.prune(model, other, "reassigned"):
            try:
                found.append(second(cache, said))
            except gp.Unservable:
                assert other is BEFORE
                return
    assert found[0].sequences.equal(found[1].sequences)
    assert relative_difference(found[1].logits, found[0].logits) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "pruner"),
    [*((name, BEFORE) for name in NAMES), *((name, LastRow(keep=0.4)) for name in BETWEEN_LAYERS)],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_threads_in_one_context(name, pruner):
    model = model_of(name)
    prompts = [tiny_inputs(model, [(1, 5 + i, 7)], seed=i) for i in range(3)]
    with gp.prune(model, pruner):
        wanted = [generate(model, inputs).sequences for inputs in prompts]
        with ThreadPoolExecutor(3) as pool:
            got = list(pool.map(lambda inputs: generate(model, inputs).sequences, prompts))
    assert all(a.equal(b) for a, b in zip(got, wanted, strict=True))


@each_family
def test_an_adapter_that_does_nothing_changes_nothing(name):
    peft = pytest.importorskip("peft")
    model = tiny_model(name)
    inputs = tiny_inputs(model, [(1, 5, 7), (1, 2, 4)])
    with gp.prune(model, BEFORE), torch.no_grad():
        wanted, logits = generate(model, inputs), model(**inputs).logits
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    with gp.prune(adapted, BEFORE), torch.no_grad():
        assert generate(adapted, inputs).sequences.equal(wanted.sequences)
        assert relative_difference([adapted(**inputs).logits], [logits]) < TOLERANCE
