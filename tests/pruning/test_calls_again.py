"""What a user calls next: the same again, a call inside of a call, and all images where words alone are new."""

import copy
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from transformers import GenerationConfig, cache_utils

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import families
from groundprune.probes.patching import replaced
from support.closeness import relative_difference
from support.families import model_of
from support.generating import CONTROL, MODES, PRUNER, TOLERANCE, generate, oracle
from support.inside import LastRow

WORDS = torch.tensor([[11, 12, 13, 14]])


def of_columns(name, ids):
    """What stands beside the ids of a conversation."""
    model = model_of(name)
    return {"input_ids": ids, **families()[name].tiny_visuals(model.config).extra(ids)}


def images_of(inputs):
    return {key: value for key, value in inputs.items() if "pixel" in key or "grid" in key or "sizes" in key}


# The same again


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
@pytest.mark.parametrize("keep", [0.4, 1])
def test_one_result_goes_to_generate_as_often_as_one_likes(name, keep):
    """Stock code repeats encoded images in place, for beams and samples."""
    model, pruner = model_of(name), gp.Spatial(keep=keep)
    inputs = tiny_inputs(model, [(0, 0, 9), (1, 5, 7), (2, 2, 4)], modality="image")
    short = gp.prune_inputs(model, inputs, pruner)
    for mode in ("samples", "beams", "samples", "greedy"):
        wanted = generate(model, gp.prune_inputs(model, inputs, pruner), **MODES[mode])
        assert generate(model, short, **MODES[mode]).sequences.equal(wanted.sequences)


def test_encoded_images_that_nothing_is_dropped_of_stay_the_callers_own(model, inputs):
    given = {key: value for key, value in inputs.items() if key != "pixel_values"}
    given["mm_encoder_outputs"] = gp.encode(model, inputs, [PRUNER]).select([0, 1, 2])
    features = list(given["mm_encoder_outputs"]["image"].pooler_output)
    generate(model, gp.prune_inputs(model, given, gp.Spatial(keep=1)), num_beams=2)
    assert len(given["mm_encoder_outputs"]["image"].pooler_output) == len(features)


def test_encoded_prompts_without_an_image_are_left_alone(model):
    inputs = tiny_inputs(model, [(0, 0, 9), (1, 5, 7)])
    encoded = gp.encode(model, inputs, [PRUNER])
    words = {"input_ids": inputs["input_ids"][:1, -9:]}
    short = gp.prune_inputs(model, {**words, "mm_encoder_outputs": encoded.select([0])}, PRUNER)
    assert generate(model, short).sequences.equal(generate(model, words).sequences)


def test_the_models_own_lengths_count_the_unpruned_prompt(monkeypatch):
    model = tiny_model("llava")
    inputs = tiny_inputs(model, [(1, 5, 7)])
    length = inputs["input_ids"].shape[1]
    with gp.prune(model, PRUNER):
        wanted = generate(model, inputs, max_new_tokens=3).sequences
        monkeypatch.setattr(model.generation_config, "max_length", length + 3)
        assert model.generate(**inputs, do_sample=False).equal(wanted)
        assert model.generate(**inputs, generation_config=GenerationConfig(do_sample=False)).equal(wanted)


# A call inside of a call


@pytest.mark.parametrize("pruner", [PRUNER, gp.FastV(keep=0.6)], ids=["before", "inside"])
def test_guidance_calls_the_model_between_forwards(model, pruner):
    """Stock `guidance_scale` runs the prompt's last word without its image, on a cache of its own."""
    inputs = tiny_inputs(model, [(1, 5, 7)])
    with gp.prune(model, pruner) as run:
        found = generate(model, inputs, guidance_scale=1.5)
        plain = generate(model, inputs)
    wanted = oracle(model, run, inputs, guidance_scale=1.5)
    assert found.sequences.equal(wanted.sequences)
    assert relative_difference(found.logits, wanted.logits) < TOLERANCE
    assert not found.sequences.equal(plain.sequences)


@pytest.mark.parametrize("pruner", [PRUNER, gp.FastV(keep=0.6)], ids=["before", "inside"])
def test_generate_inside_of_generate(model, pruner):
    inputs, words = tiny_inputs(model, [(1, 5, 7)]), {"input_ids": WORDS}
    answers = []

    def ask(ids, scores):
        answers.append([generate(model, x, max_new_tokens=3).sequences for x in (inputs, words)])
        return scores

    with gp.prune(model, pruner):
        wanted, *each = generate(model, inputs), *(generate(model, x, max_new_tokens=3) for x in (inputs, words))
        found = generate(model, inputs, logits_processor=[ask])
    assert found.sequences.equal(wanted.sequences)
    assert relative_difference(found.logits, wanted.logits) == 0
    assert len(answers) == 6
    assert all(x.equal(y.sequences) for answer in answers for x, y in zip(answer, each, strict=True))


@pytest.mark.parametrize("pruner", [PRUNER, gp.FastV(keep=0.6)], ids=["before", "inside"])
def test_a_generate_that_began_before_the_context_goes_on_unpruned(model, pruner):
    """In another thread, whose next forward is prepared while one inside of the context is under way."""
    inputs, here = tiny_inputs(model, [(1, 5, 7)]), threading.get_ident()
    wanted = generate(model, inputs)
    began, within, prepared = (threading.Event() for _ in range(3))

    def pause(ids, scores):
        began.set()
        assert within.wait(60)
        return scores

    def meanwhile(ids, scores):
        within.set()
        assert prepared.wait(60)
        return scores

    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(generate, model, inputs, logits_processor=[pause])
        assert began.wait(60)
        with gp.prune(model, pruner):
            alone, prepare = generate(model, inputs), model.prepare_inputs_for_generation

            @functools.wraps(prepare)
            def watched(*args, **kwargs):
                found = prepare(*args, **kwargs)
                if threading.get_ident() != here:
                    prepared.set()
                return found

            with replaced(model, "prepare_inputs_for_generation", watched):
                ours = generate(model, inputs, logits_processor=[meanwhile])
                found = theirs.result(60)
    for answer, same in ((found, wanted), (ours, alone)):
        assert answer.sequences.equal(same.sequences)
        assert relative_difference(answer.logits, same.logits) < TOLERANCE
    assert relative_difference(alone.logits, wanted.logits) > CONTROL


# All images of a conversation, none of which is new


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen3_vl", "idefics3", "gemma3"])
def test_words_after_all_images_again(name):
    """As a processor gives a conversation; the words alone are the same turn."""
    model = model_of(name)
    first = tiny_inputs(model, [(1, 5, 7)])
    short = gp.prune_inputs(model, first, gp.Spatial(keep=0.4))
    out = generate(model, short)
    turn = of_columns(name, torch.cat([short.restore(out.sequences), WORDS], 1))

    def answered(more):
        after = short, copy.deepcopy(out.past_key_values)
        return generate(model, gp.prune_inputs(model, {**turn, **more}, gp.Spatial(keep=0.4), after=after))

    wanted, found = answered({}), answered(images_of(first))
    assert found.sequences.equal(wanted.sequences)
    assert relative_difference(found.logits, wanted.logits) == 0
    for pruner in (gp.Spatial(keep=0.4), gp.FastV(keep=0.6)):
        with gp.prune(model, pruner):
            out = generate(model, first)
            turn = of_columns(name, torch.cat([out.sequences, WORDS], 1))
            caches = [copy.deepcopy(out.past_key_values) for _ in range(2)]
            wanted = generate(model, turn, past_key_values=caches[0])
            found = generate(model, {**turn, **images_of(first)}, past_key_values=caches[1])
        assert found.sequences.equal(wanted.sequences)
        assert relative_difference(found.logits, wanted.logits) == 0


@pytest.mark.parametrize("keep", [1, 0.4])
@pytest.mark.parametrize("kinds", [("image", "image"), ("video", "image"), ("image", "video")])
def test_all_of_two_kinds_in_rows_give_what_the_new_ones_alone_give(kinds, keep):
    model, pruner = model_of("qwen3_vl"), gp.Spatial(keep=keep)
    first, second = (rows_alike(model, kind, seed) for kind, seed in zip(kinds, (1, 9), strict=True))
    short = gp.prune_inputs(model, first, pruner)
    out = generate(model, short, max_new_tokens=2)
    turn = of_columns("qwen3_vl", torch.cat([short.restore(out.sequences), second["input_ids"]], 1))
    new = images_of(second)
    every = {key: by_row(images_of(first).get(key), new.get(key)) for key in {**images_of(first), **new}}
    found = []
    for visuals in (new, every):
        turned = gp.prune_inputs(
            model, {**turn, **visuals}, pruner, after=(short, copy.deepcopy(out.past_key_values))
        )
        found.append(generate(model, turned, max_new_tokens=2))
    assert relative_difference(found[1].logits, found[0].logits) == 0


# A first turn that lost nothing, in models whose ids are more than columns


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_5"])
def test_turns_behind_one_that_lost_nothing(name):
    """Stock code goes on by an offset that the model keeps, here of another prompt."""
    model, whole = model_of(name), gp.Spatial(keep=1)
    first, second = tiny_inputs(model, [(1, 5, 7)]), tiny_inputs(model, [(1, 3, 4)], seed=5)
    grids = {key: torch.cat([first[key], second[key]]) for key in images_of(first)}

    def on(cache, ids, images):
        return generate(model, {**of_columns(name, ids), **images}, past_key_values=cache, max_new_tokens=3)

    def elsewhere():
        generate(model, tiny_inputs(model, [(2, 1, 1)], seed=8))

    said = generate(model, first, max_new_tokens=3).sequences
    for turn, images, every in ((WORDS, {}, images_of(first)), (second["input_ids"], images_of(second), grids)):
        ids = torch.cat([said, turn], 1)
        wanted = generate(model, {**of_columns(name, ids), **every}, use_cache=False, max_new_tokens=3)
        elsewhere()
        with gp.prune(model, whole):
            inside = generate(model, first, max_new_tokens=3).past_key_values
        outside = generate(model, first, max_new_tokens=3).past_key_values
        elsewhere()
        with gp.prune(model, whole):
            found = [on(inside, ids, images)]
            if images:
                with pytest.raises(gp.Unservable, match="what this cache holds is not known"):
                    on(copy.deepcopy(outside), ids, images)
                found.append(on(outside, ids, every))
        for answer in found:
            assert answer.sequences.equal(wanted.sequences)
            assert relative_difference(answer.logits, wanted.logits) < TOLERANCE
    with torch.no_grad(), gp.prune(model, whole):  # and a loop of one's own
        cache = model(**first).past_key_values
        elsewhere()
        step = model(input_ids=WORDS, past_key_values=cache).logits
    wanted = model(**{**of_columns(name, torch.cat([first["input_ids"], WORDS], 1)), **images_of(first)}).logits
    assert relative_difference([step], [wanted[:, -4:]]) < TOLERANCE


def rows_alike(model, kind, seed):
    """Two rows of one length, a visual each."""
    rows = [tiny_inputs(model, [(1, 4, 6)], seed=seed + i, modality=kind) for i in range(2)]
    return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}


def by_row(*turns):
    """The visuals of row 0 in all turns, then those of row 1."""
    halves = [given.chunk(2) for given in turns if given is not None]
    return torch.cat([half[row] for row in range(2) for half in halves])


# What is refused


def test_a_filled_cache_without_the_turn_before(model):
    inputs = tiny_inputs(model, [(1, 5, 7)])
    short = gp.prune_inputs(model, inputs, PRUNER)
    out = generate(model, short)
    turn = {**inputs, "input_ids": short.restore(out.sequences), "past_key_values": out.past_key_values}
    del turn["attention_mask"]
    with pytest.raises(gp.Unservable, match=r"go on from a cache of 31 columns: give after=\("):
        gp.prune_inputs(model, turn, PRUNER)


def test_a_copy_of_a_model_that_is_being_pruned(model, inputs):
    with gp.prune(model, PRUNER), pytest.raises(gp.GroundPruneError, match="copy it before, or after leaving"):
        torch.optim.swa_utils.AveragedModel(model)
    assert generate(copy.deepcopy(model), inputs).sequences.equal(generate(model, inputs).sequences)


@pytest.mark.skipif(not hasattr(cache_utils, "Fp8QuantizedLayer"), reason="quantised caches need a package more")
def test_eviction_from_a_quantised_cache(model, inputs):
    cache = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
    for evict, expected in ((True, pytest.raises(gp.Unservable, match="quantised cache")), (False, nullcontext())):
        with gp.prune(model, LastRow(keep=0.4, evict=evict)), expected:
            found = generate(model, inputs, **cache)
    with gp.prune(model, LastRow(keep=0.4)):
        assert found.sequences[:, :-5].equal(generate(model, inputs).sequences[:, :-5])


def test_embeddings_in_the_place_of_ids_or_beside_them(model):
    inputs = tiny_inputs(model, [(1, 5, 7)])
    embedded = {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]).detach()}
    refused = pytest.raises(gp.Unservable, match="inputs_embeds do not tell")
    with gp.prune(model, PRUNER), refused:
        generate(model, {"attention_mask": inputs["attention_mask"], **embedded})
    with gp.prune(model, PRUNER), refused:
        generate(model, {**inputs, **embedded})
    with refused:
        gp.prune_inputs(model, {**inputs, **embedded}, PRUNER)
