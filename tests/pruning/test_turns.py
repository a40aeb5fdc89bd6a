"""Turns on a kept cache: further text, further images, copies, resets, two conversations at once."""

import copy

import pytest
import torch
from transformers import DynamicCache, StaticCache

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs
from groundprune.exactness.verify import relative_difference
from support.generating import TOLERANCE, generate


def test_a_second_turn_on_the_kept_cache_equals_the_oracle(model):
    inputs = tiny_inputs(model, [(1, 5, 7)])
    more = torch.tensor([[11, 12, 13]])

    def two_turns():
        cache = DynamicCache(config=model.config.get_text_config())
        first = generate(model, inputs, past_key_values=cache).sequences
        ids = torch.cat([first, more], 1)
        follow_up = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return generate(model, follow_up, past_key_values=cache)

    with gp.prune(model, gp.ClsVisual(keep=0.4)) as run:
        pruned = two_turns()
    with hide(model, hidden_columns(run.prompt)):
        wanted = two_turns()
    assert pruned.sequences.equal(wanted.sequences)
    assert relative_difference(pruned.logits, wanted.logits) < TOLERANCE


def test_a_tuple_output_keeps_the_state_too(model, inputs):
    with gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned"), torch.no_grad():
        step = {"input_ids": torch.tensor([[5], [6], [7]])}
        wanted = model(**step, past_key_values=model(**inputs).past_key_values).logits
        cache = model(**inputs, return_dict=False)[1]
        assert model(**step, past_key_values=cache).logits.equal(wanted)


def test_a_copy_of_a_cache_goes_on_as_the_cache_does(model, inputs):
    with gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned"), torch.no_grad():
        cache = model(**inputs).past_key_values
        step = {"input_ids": torch.tensor([[5], [6], [7]])}
        copied = copy.deepcopy(cache)
        assert model(**step, past_key_values=copied).logits.equal(model(**step, past_key_values=cache).logits)


def test_two_conversations_in_one_context_do_not_mix(model):
    first, second = tiny_inputs(model, [(1, 5, 7)]), tiny_inputs(model, [(2, 3, 2)], seed=9)

    def alone(inputs):
        with gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned"), torch.no_grad():
            out = model(**inputs)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            return model(input_ids=token, past_key_values=out.past_key_values).logits

    wanted = alone(first), alone(second)
    with gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned"), torch.no_grad():
        outs = [model(**first), model(**second)]
        tokens = [out.logits[:, -1].argmax(-1, keepdim=True) for out in outs]
        got = [
            model(input_ids=t, past_key_values=o.past_key_values).logits for t, o in zip(tokens, outs, strict=True)
        ]
    assert got[0].equal(wanted[0])
    assert got[1].equal(wanted[1])


def test_a_cache_that_is_reset_forgets_what_was_pruned(model):
    image, words = tiny_inputs(model, [(1, 5, 7)]), {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
    with torch.no_grad(), gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned"):
        model(**image, past_key_values=cache)
        cache.reset()
        out = model(**words, past_key_values=cache)
        again = model(input_ids=torch.tensor([[9]]), past_key_values=out.past_key_values).logits
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits[:, -1:]
    assert relative_difference([again], [wanted]) < TOLERANCE


@pytest.mark.parametrize("first_images", [1, 0])
@pytest.mark.parametrize("policy", ["preserved", "reassigned"])
def test_an_image_in_a_later_turn_equals_the_oracle(model, policy, first_images):
    first = tiny_inputs(model, [(first_images, 5, 7), (first_images, 2, 4)])
    second = tiny_inputs(model, [(1, 3, 4), (1, 3, 4)], seed=5)
    if not first_images:
        del first["pixel_values"]

    def two_turns():
        cache = DynamicCache(config=model.config.get_text_config())
        said = generate(model, first, past_key_values=cache, max_new_tokens=4).sequences
        ids = torch.cat([said, second["input_ids"]], 1)
        grown = torch.ones_like(ids)
        grown[:, : first["input_ids"].shape[1]] = first["attention_mask"]
        turn = {"input_ids": ids, "attention_mask": grown, "pixel_values": second["pixel_values"]}
        return generate(model, turn, past_key_values=cache)

    with gp.prune(model, gp.ClsVisual(keep=0.4), policy) as run:
        pruned = two_turns()
    with hide(model, hidden_columns(run.prompt)):
        wanted = two_turns()
    difference = relative_difference(pruned.logits, wanted.logits)
    assert difference < TOLERANCE if policy == "preserved" else difference > 1e-2
    assert [len(kept) for kept in run.kept] == [14, 14]
    whole = two_turns()
    assert relative_difference(whole.logits[:1], wanted.logits[:1]) > 1e-2  # the second image was pruned


def test_a_later_image_in_a_loop_of_ones_own_equals_generate(model):
    first, second = tiny_inputs(model, [(1, 5, 7)]), tiny_inputs(model, [(1, 3, 4)], seed=5)
    with gp.prune(model, gp.ClsVisual(keep=0.4), "reassigned"), torch.no_grad():
        cache = model(**first).past_key_values
        own = model(input_ids=second["input_ids"], pixel_values=second["pixel_values"], past_key_values=cache).logits
        cache = model(**first).past_key_values
        ids = torch.cat([first["input_ids"], second["input_ids"]], 1)
        turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": second["pixel_values"]}
        wanted = generate(model, turn, past_key_values=cache, max_new_tokens=1).logits
    assert relative_difference([own[:, -1]], wanted) < TOLERANCE
