"""What docs/speed.md says of a measurement is what its file holds, limits that are not met included."""

from tools.docs.speed import decode_table, memory_table, official_table, sweep_table, ttft_table

ABOUT = {
    "machine": {"processor": "x", "threads": 1, "dtype": "float32"},
    "versions": {"torch": "2", "transformers": "5"},
}


def found(cells):
    return {"about": ABOUT, "cells": cells}


def ratio(middle, low=None, high=None):
    return {"over": "native", "ratio": middle, "interval": [low or middle, high or middle]}


def cell(**ratios):
    return {"kept": 144, "rounds": [{}] * 8, "ratios": ratios}


def test_a_prefill_over_the_limit_is_named():
    slow = cell(native=ratio(0.4), fast=ratio(1.01, 0.98, 1.03), slow=ratio(1.06, 1.04, 1.08))
    table = ttft_table(found({"m 576 0.25": slow}))
    assert "| m | 576 | 0.25 (144) | 0.400 [0.400, 0.400] | 1.010 [0.980, 1.030] | 1.060 [1.040, 1.080] |" in table
    assert "Above 1.05: slow in m 576 0.25 (1.060)." in table
    assert "8 rounds" in table
    assert "Every median is at most 1.05." in ttft_table(
        found({"m 576 0.25": cell(native=ratio(2.0), fast=ratio(1.05))})
    )


def test_too_few_rounds_show_no_interval():
    assert "| 1.010 |" in ttft_table(found({"m 576 0.25": cell(native=ratio(0.4), fast=ratio(1.01, 0.01, 2.0))}))


def test_stages_inside_of_the_llm_have_a_limit_of_their_own():
    table = decode_table(found({"m 576 0.5": cell(prune_inputs=ratio(1.03), prune=ratio(1.0), fastv=ratio(1.04))}))
    assert "Above 1.02 before the LLM: prune_inputs in m 576 0.5 (1.030)." in table
    assert "At most 1.05 with stages inside of it." in table


def test_a_sweep_is_held_to_encoding_once_alone():
    table = sweep_table(found({"m 576": cell(**{"encode once": ratio(1.01), "each with its tower": ratio(1.8)})}))
    assert "At most 1.05 with images encoded once." in table


def test_caches_that_differ_are_not_called_equal():
    peak = {"stock": 9e6, "native": 2e6, "a preserved": 2.02e6, "a reassigned": 2e6}
    cache = {"stock": 4, "native": 2, "a preserved": 2, "a reassigned": 2}
    of = {"kept": 144, "peak": peak, "cache": cache, "cache by formula": 2}
    equal, other = (memory_table(found({"m 576 0.5": {**of, "cache by formula": n}})) for n in (2, 3))
    assert "at most 1.00% more" in equal
    assert "are equal" in equal
    assert "are NOT all equal" in other


def test_code_that_is_faster_than_ours_is_named_and_what_did_not_run_is_said():
    def measured(theirs):
        versions = [{"attention": "sdpa"}, {}]
        return {"versions": versions, "logits": 1e-6, "rounds": [{}] * 5, "ratios": {"theirs": ratio(theirs)}}

    cells = {"a 576 batch 1": measured(0.9), "b 2916 batch 1": measured(1.6), "c 576 batch 1": {"error": "no"}}
    table = official_table(found(cells))
    assert "Theirs takes less time in a 576 batch 1 (0.900)." in table
    assert "| b | 2,916 | 1 | sdpa | 1.600 [1.600, 1.600] | 1e-06 |  |" in table
    assert "| c | 576 | 1 | did not run here |" in table
