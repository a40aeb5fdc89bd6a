"""mlx-vlm with pruned images says what `gp.prune` says in transformers, over the whole vocabulary."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
from mlx_vlm.utils import prepare_inputs

import groundprune as gp
import groundprune.integrations.mlx as ours
from groundprune.pruners import make_pruner
from support.engines import STEPS, TOLERANCE, by_transformers, difference, photo
from support.mlx_engine import REQUESTS, TEXT, by_mlx, prompt

HALF = ["cls-visual", "coverage", "divprune", "hiprune", "spatial", "tome", "vidcom2"]
CASES = [*((name, 0.5) for name in HALF), ("cls-visual", 0.2), ("tome", 0.2)]
APART = {"reassigned": 1, "reassigned-image": 0.05, "stretched": 0.05, "shifted:8": 0.05, "permuted:1": 0.05}


def both(pair, requests, pruner, positions="preserved"):
    """What mlx-vlm and transformers say, and what became of the last request in mlx-vlm."""
    with ours.prune(pair.mlx, pruner, positions) as run:
        found = by_mlx(pair.mlx, pair.mlx_processor, requests)
    return found, by_transformers(pair.model, pair.processor, requests, pruner, positions), run


def assert_same(found, expected):
    assert difference(found, expected) < TOLERANCE
    assert [said.ids for said in found] == [said.ids for said in expected]


@pytest.mark.parametrize("size", [(48, 40), (40, 64), (24, 80), (100, 30)])
def test_the_stock_models_agree(pair, size):
    request = (prompt(1, "the red circle"), [photo(7, *size)])
    found = by_mlx(pair.mlx, pair.mlx_processor, [request])
    assert_same(found, by_transformers(pair.model, pair.processor, [request], gp.Spatial(keep=1.0)))


@pytest.mark.parametrize(("name", "keep"), CASES)
def test_mlx_says_what_transformers_says(pair, name, keep):
    pruner = make_pruner(name, keep)
    found, expected, run = both(pair, REQUESTS, pruner)
    assert_same(found, expected)
    assert found[1].columns - expected[1].columns == len(run.layout[0]) - len(run.kept[0]) > 0


@pytest.mark.parametrize("positions", APART)
def test_other_policies_say_something_else(pair, positions):
    pruner = gp.ClsVisual(keep=0.5)
    found, expected, _ = both(pair, REQUESTS, pruner, positions)
    assert_same(found, expected)
    preserved = by_transformers(pair.model, pair.processor, REQUESTS, pruner)
    assert difference(found[:1], preserved[:1]) > APART[positions]
    assert difference(found[1:], preserved[1:]) > APART[positions]


def test_random_draws_by_the_pixels_of_mlx(pair):
    """They differ from those of transformers' processor in the last bit."""
    text, images = REQUESTS[1]
    pruner = gp.Random(keep=0.5)
    given = prepare_inputs(pair.mlx_processor, images=images, prompts=text)
    inputs = {name: torch.from_numpy(np.array(value)) for name, value in given.items()}
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == pair.model.config.image_token_id).long()
    short = gp.prune_inputs(pair.model, inputs, pruner)
    with ours.prune(pair.mlx, pruner) as run:
        (found,) = by_mlx(pair.mlx, pair.mlx_processor, [(text, images)])
        again = by_mlx(pair.mlx, pair.mlx_processor, [(text, images)])
    assert torch.equal(run.kept[0], short.kept[0])
    out = pair.model.generate(**short, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False)
    assert short.restore(out)[0, inputs["input_ids"].shape[1] :].tolist() == found.ids == again[0].ids


@pytest.mark.parametrize("step", [8, None])
def test_a_prefill_in_pieces_and_in_one(pair, step):
    pruner = gp.ClsVisual(keep=0.5)
    with ours.prune(pair.mlx, pruner):
        found = by_mlx(pair.mlx, pair.mlx_processor, REQUESTS, prefill_step_size=step)
    assert_same(found, by_transformers(pair.model, pair.processor, REQUESTS, pruner))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_keep_1_and_text_alone_are_the_stock_model(load, dtype):
    model, processor = load()
    model.set_dtype(dtype)
    requests = [*REQUESTS, TEXT]
    stock = by_mlx(model, processor, requests)
    with ours.prune(model, gp.ClsVisual(keep=1.0)):
        found = by_mlx(model, processor, requests)
    with ours.prune(model, gp.ClsVisual(keep=0.5)):
        (text,) = by_mlx(model, processor, [TEXT])
    assert all(torch.equal(a.logprobs, b.logprobs) for a, b in zip(found, stock, strict=True))
    assert torch.equal(text.logprobs, stock[-1].logprobs)


def test_a_quantised_model(pair, load):
    pruner, (model, processor) = gp.ClsVisual(keep=0.5), load()
    nn.quantize(model, group_size=32, bits=8, class_predicate=lambda path, layer: hasattr(layer, "to_quantized"))
    found = {}
    for positions in ("preserved", "reassigned"):
        with ours.prune(model, pruner, positions) as run:
            found[positions] = by_mlx(model, processor, REQUESTS[:1], steps=1)
    assert len(run.kept[0]) == len(run.layout[0]) // 2
    expected = by_transformers(pair.model, pair.processor, REQUESTS[:1], pruner, steps=1)
    assert difference(found["preserved"], expected) < difference(found["reassigned"], expected) / 4
