"""Attention is read through one wrapper in a registry of the whole process, whoever else reads at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.probes import attention, readers
from groundprune.probes.attention import probe
from groundprune.signals import Need
from support.generating import GREEDY
from support.inside import LastRow

KEYS = {"keys": readers.keys}
RECEIVED = gp.Need("tower_attention", None, "received")


@pytest.fixture
def clean():
    assert not ALL_ATTENTION_FUNCTIONS._local_mapping
    yield
    assert not ALL_ATTENTION_FUNCTIONS._local_mapping
    assert not attention._listeners


def tower(model):
    return model.model.vision_tower.encoder.layers[0].self_attn


def encode(model):
    with torch.no_grad():
        model.get_image_features(pixel_values=tiny_inputs(model, [(1, 1, 1)])["pixel_values"])


def test_probes_that_overlap_in_any_order_leave_nothing_behind(clean):
    """The first closes first: saving and restoring the registry would leave its wrapper there for good."""
    models = [tiny_model("llava", seed=seed) for seed in (0, 1)]
    first, second = (probe({tower(model): KEYS}) for model in models)
    found = first.__enter__(), second.__enter__()
    for model in models:
        encode(model)
    first.__exit__(None, None, None)
    for model in models:
        encode(model)
    second.__exit__(None, None, None)
    encode(models[1])
    assert [len(each["keys"]) for each in found] == [1, 2]


def test_a_probe_inside_of_a_probe_reads_too(clean):
    model = tiny_model("llava")
    with probe({tower(model): KEYS}) as outer:
        with probe({tower(model): KEYS}) as inner:
            encode(model)
        encode(model)
    assert (len(outer["keys"]), len(inner["keys"])) == (2, 1)
    assert outer["keys"][0].equal(inner["keys"][0])


@pytest.mark.parametrize("meanwhile", [False, True], ids=["before", "meanwhile"])
def test_a_function_that_a_user_registered_stays(clean, meanwhile):
    model, sdpa = tiny_model("llava"), ALL_ATTENTION_FUNCTIONS["sdpa"]

    def mine(*args, **kwargs):
        return sdpa(*args, **kwargs)

    try:
        if not meanwhile:
            ALL_ATTENTION_FUNCTIONS["sdpa"] = mine
        with probe({tower(model): KEYS}):
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not mine
            if meanwhile:
                ALL_ATTENTION_FUNCTIONS["sdpa"] = mine
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is mine
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


@pytest.mark.parametrize("inside", [False, True], ids=["tower", "decoder"])
def test_two_models_in_two_threads_read_their_own_attention(clean, inside):
    models = [tiny_model("llava", seed=seed, side=6) for seed in (0, 1)]
    inputs = tiny_inputs(models[0], [(1, 5, 7)])
    pruner = LastRow(keep=0.4) if inside else gp.ClsVisual(keep=0.4)
    entered, leaving = threading.Barrier(2, timeout=60), threading.Barrier(2, timeout=60)

    def pruned(model):
        with gp.prune(model, pruner) as run:
            return model.generate(**inputs, max_new_tokens=5, **GREEDY), run.kept[0]

    def in_a_thread(model):
        entered.wait()
        found = [pruned(model) for _ in range(8)]
        leaving.wait()
        return found

    wanted = [pruned(model) for model in models]
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(in_a_thread, models))
    for runs, (output, kept) in zip(got, wanted, strict=True):
        for other, others in runs:
            assert others.equal(kept)
            assert other.sequences.equal(output.sequences)


def test_a_thread_reads_its_own_calls_of_a_module_alone(clean):
    model = tiny_model("llava")
    with probe({tower(model): KEYS}) as found, ThreadPoolExecutor(1) as pool:
        pool.submit(encode, model).result()
        assert not found["keys"]
        encode(model)
    assert len(found["keys"]) == 1


def test_a_reader_that_fails_leaves_nothing_behind(clean):
    model = tiny_model("llava")

    def fails(call):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), probe({tower(model): {"x": fails}}):
        encode(model)


def test_needs_of_one_module_are_recorded_side_by_side(clean):
    needs = frozenset({RECEIVED, Need("tower_keys")})

    class Both(gp.Spatial):
        def score(self, signals, layout, stage):
            assert len(signals.tower_keys()) == len(layout)
            return signals.tower_attention(kind="received").mean(0)

    Both.needs = needs
    model = tiny_model("paligemma")
    with gp.prune(model, Both(keep=0.5)) as run:
        model.generate(**tiny_inputs(model, [(1, 2, 3)]), max_new_tokens=2)
    assert len(run.kept[0]) == 13
