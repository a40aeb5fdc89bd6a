"""Pruning on a CUDA device: the proof of exactness, generation in every dtype, and how often it waits."""

import warnings

import pytest
import torch

import groundprune as gp
from benchmarks.cases import Case
from benchmarks.plan import PRUNERS
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import families
from support.families import PROMPTS

pytestmark = pytest.mark.gpu
SYNCHRONISATIONS_BEYOND_STOCK = 2  # of a prune and its prefill: the count of what stays, and one to spare
DTYPES = ["float32", "bfloat16", "float16"]


def on_gpu(family, dtype=torch.float32, **options):
    model = tiny_model(family, **options)
    inputs = tiny_inputs(model, PROMPTS)
    moved = {k: v.to("cuda", dtype if v.is_floating_point() else v.dtype) for k, v in inputs.items()}
    return model.to("cuda", dtype), moved


@pytest.mark.parametrize("family", sorted(families()))
def test_the_three_facts_hold(family):
    model, inputs = on_gpu(family)
    found = gp.verify(model, inputs, gp.Spatial(keep=0.5))
    assert found.passed, found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_generation_is_that_of_both_ways_to_prune(family, dtype, attention):
    if attention == "flash_attention_2" and dtype == "float32":
        pytest.skip("flash attention has no fp32")
    model, inputs = on_gpu(family, getattr(torch, dtype))
    model.set_attn_implementation(attention)
    options = {"max_new_tokens": 6, "do_sample": False}
    stock = model.generate(**inputs, **options)
    with gp.prune(model, gp.ClsVisual(keep=1.0)):
        assert model.generate(**inputs, **options).equal(stock)
    with gp.prune(model, gp.ClsVisual(keep=0.5)):
        inside = model.generate(**inputs, **options)
    short = gp.prune_inputs(model, inputs, gp.ClsVisual(keep=0.5))
    assert short.restore(model.generate(**short, **options)).equal(inside)
    assert not inside.equal(stock)
    with gp.prune(model, gp.FastV(keep=0.5)):
        assert model.generate(**inputs, **options).shape == stock.shape


def waits(call):
    """How often a call waits for the device."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(each.message) for each in said)


def test_waiting_for_the_device_is_counted():
    x = torch.ones(3, device="cuda")
    assert waits(lambda: x + 1) == 0
    assert waits(lambda: [x.sum().item(), x.nonzero()]) == 2


@pytest.mark.parametrize("pruner", PRUNERS)
@torch.inference_mode()
def test_pruning_hardly_waits_for_the_device(pruner):
    case = Case("tiny-llava", 36, "cuda", "bfloat16")
    made = gp.make_pruner(pruner, "0.5")
    case.stock(), case.pruned(made)  # what is captured or found out once
    beyond = waits(lambda: case.pruned(made)) - waits(case.stock)
    assert beyond <= SYNCHRONISATIONS_BEYOND_STOCK
