"""Costs are counted exactly where they can be, and ratios find a planted difference."""

import numpy as np
import pytest
import torch

from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.studies.overhead import GIVEN, Overhead
from groundprune.studies.parts.costs import (
    AGAIN,
    CHOOSE,
    DECODE,
    KEEPS,
    KV,
    MEMORY,
    NATIVE,
    PREFILL,
    PRESERVED,
    REASSIGNED,
    SLOTS,
    UNPRUNED,
    VARIANTS,
    Bill,
    cell,
)
from groundprune.studies.parts.meters import peak
from groundprune.studies.parts.ratios import ENOUGH, Costs, costs_of, median_ratio
from groundprune.studies.parts.sizes import QUICK_SIZES, SIDE, SIZES
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Run

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def bill(request):
    model = tiny_model(request.param)
    return Bill(model, tiny_inputs(model, [(1, 4, 8)]))


def test_cache_holds_what_the_formula_says(bill):
    config, cells = bill.model.config.get_text_config(), bill.about()["cells"]
    width = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    for each in cells.values():
        assert each[KV] == 2 * config.num_hidden_layers * width * 4 * each[SLOTS]


def test_pruned_and_native_prompts_have_the_same_slots_and_gaps_are_in_preserved_ids_alone(bill):
    for keep in KEEPS:
        fed = [bill.fed[cell(variant, keep)] for variant in VARIANTS]
        dropped = bill.fed[UNPRUNED]["input_ids"].shape[1] - fed[0]["input_ids"].shape[1]
        assert dropped > 0
        assert len({tuple(f["input_ids"].tolist()[0]) for f in fed}) == 1
        last = [int(f["position_ids"][..., -1].max()) for f in fed]
        slots = fed[0]["input_ids"].shape[1]
        assert last[0] == int(bill.fed[UNPRUNED]["position_ids"][..., -1].max())
        assert last[1] == last[2] == slots - 1


@torch.inference_mode()
def test_the_unpruned_variant_is_the_stock_model():
    model = tiny_model("llava")
    inputs = tiny_inputs(model, [(1, 4, 8)])
    mine = model(**Bill(model, inputs, ["0.5"]).fed[UNPRUNED]).logits
    torch.testing.assert_close(mine, model(**inputs).logits)


def test_the_peak_counts_what_is_freed_again():
    def work():
        large = torch.zeros(1000, 1000)
        small = large[0] + 1
        del large
        return small

    found, small = peak(work, CPU)
    assert 4_000_000 <= found < 4_100_000
    assert small.shape == (1000,)


def test_every_cell_is_timed(bill):
    found = bill.repetition(0)
    assert set(found) == {UNPRUNED, AGAIN, *(cell(variant, keep) for variant in VARIANTS for keep in KEEPS)}
    assert all(value > 0 for times in found.values() for value in times.values())


@pytest.mark.parametrize("size", [*SIZES, *QUICK_SIZES], ids=str)
def test_sizes_are_of_the_real_models(size):
    real = {"LLaVA-1.5-7B": 202_383_360, "LLaVA-1.5-13B": 317_204_480, "Qwen2.5-VL-3B": 77_076_992}
    with torch.device("meta"):
        from transformers import AutoModelForImageTextToText

        model = AutoModelForImageTextToText.from_config(size.config(1))
    (layer,) = model.model.language_model.layers
    assert sum(weight.numel() for weight in layer.parameters()) == real[size.name]
    assert SIDE**2 == 576


def repetition(rng, slowdown=1.0, noise=0.005):
    """Made times: prefill follows the share of tokens that stay; preserved ids take `slowdown` times as long."""

    def times(share, factor=1.0):
        drawn = {PREFILL: share, DECODE: 0.5 + share / 2}
        return {what: value * factor * rng.normal(1, noise) for what, value in drawn.items()}

    machine = rng.uniform(0.5, 2)  # all of a repetition is as slow as the machine then is
    found = {UNPRUNED: times(1), AGAIN: times(1)}
    for keep in KEEPS:
        for variant in VARIANTS:
            found[cell(variant, keep)] = times(float(keep), slowdown if variant == PRESERVED else 1.0)
            if variant != NATIVE:
                found[cell(variant, keep)][CHOOSE] = 0.01
    return {name: {what: machine * value for what, value in each.items()} for name, each in found.items()}


def made(slowdown=1.0, count=12, kv=1.0, name="made"):
    rng = np.random.default_rng(0)
    cells = {UNPRUNED: {SLOTS: 100, KV: 1000, MEMORY: 1000}}
    for keep in KEEPS:
        for variant in VARIANTS:
            slots = round(100 * float(keep))
            bytes_ = round(10 * slots * (kv if variant == PRESERVED else 1))
            cells[cell(variant, keep)] = {SLOTS: slots, KV: bytes_, MEMORY: bytes_}
    about = {
        "cells": cells, "visual": {keep: round(100 * float(keep)) for keep in KEEPS}, "inner": 1, "layers": 1,
        "width": 8, "dtype": "float32", "device": "cpu", "threads": 1,
    }  # fmt: skip
    steps = {f"{GIVEN}/repetition {i}": repetition(rng, slowdown) for i in range(count)}
    return Run(name, [], {f"{GIVEN}/about": about, **steps})


def test_a_planted_slowdown_is_found():
    (costs,) = costs_of([made(1.1)], GIVEN)
    found = costs.between(PREFILL, PRESERVED, REASSIGNED)
    assert found.n == 12
    assert found.low < 0.1 < found.high
    assert found.high - found.low < 0.02
    half = costs.ratio(PREFILL, REASSIGNED, "0.5")
    assert half.value == pytest.approx(0.5, abs=0.01)
    assert abs(costs.noise(PREFILL).value) < 0.01


@pytest.mark.parametrize(
    ("slowdown", "kv", "verdicts"),
    [
        (1.0, 1.0, [HOLDS, HOLDS, HOLDS, HOLDS, HOLDS, HOLDS, HOLDS]),
        (1.1, 1.0, [FAILS, FAILS, HOLDS, HOLDS, FAILS, HOLDS, HOLDS]),
        (1.0, 1.5, [HOLDS, HOLDS, FAILS, FAILS, HOLDS, FAILS, HOLDS]),
        (2.2, 1.0, [FAILS, FAILS, HOLDS, HOLDS, FAILS, HOLDS, FAILS]),
    ],
)
def test_verdicts_follow_the_costs(slowdown, kv, verdicts):
    runs = [made(slowdown, kv=kv), made(slowdown, kv=kv, name="twin")]
    assert [claim.verdict for claim in Overhead().findings(runs).claims] == verdicts
    Overhead().draw(runs)


def test_few_repetitions_are_no_evidence():
    found = Overhead().findings([made(count=ENOUGH - 1)])
    assert [claim.verdict for claim in found.claims[:2]] == [UNTOLD, UNTOLD]
    assert found.claims[3].verdict == HOLDS
    assert median_ratio("x", [], lambda r: [1.0]).n == 0


def test_a_model_that_cannot_be_measured_is_named():
    run = Run("made", [], {f"{GIVEN}/about": {"skipped": "videos alone"}})
    for runs in ([], [run]):
        found = Overhead().findings(runs)
        assert all(claim.verdict == UNTOLD for claim in found.claims)
        Overhead().draw(runs)
    assert any("videos alone" in note for note in Overhead().findings([run]).notes)


def test_repetitions_of_one_model_in_two_runs_add_up():
    runs = [Run(r.model, [], {k.replace(GIVEN, "wide"): v for k, v in r.measured.items()}) for r in (made(), made())]
    (costs,) = costs_of(runs, GIVEN)
    assert isinstance(costs, Costs)
    assert (costs.name, len(costs.repetitions)) == ("wide", 24)
