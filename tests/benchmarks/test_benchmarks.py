"""The benchmarks measure what they say: the model's own time below, all of the pruned prefill above the line."""

import json

import pytest
import torch

import groundprune as gp
from benchmarks import __main__ as command
from benchmarks.cases import Case
from benchmarks.official.compare import METHODS, compare
from benchmarks.plan import kept
from benchmarks.selection import Tower, measured, reachable
from benchmarks.storing import Cells
from benchmarks.turns import ratio, take_turns
from benchmarks.vllm_throughput import Cost
from benchmarks.vllm_throughput import compare as compare_engines
from support.closeness import assert_near

TINY = ("--tiny", "--rounds", "1")
SUBCOMMANDS = {
    "ttft": (*TINY, "--keep", "0.25", "--pruner", "cls-visual,visionzip,fastv:layer=1"),
    "batch": (*TINY, "--sizes", "1,2"),
    "sweep": TINY,
    "decode": (*TINY, "--keep", "0.5"),
    "memory": ("--tiny", "--keep", "0.5"),
}


class First(gp.Pruner):
    name = "first"

    def score(self, signals, layout, stage):
        return -torch.arange(len(layout)).float()


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["benchmarks", *map(str, words)])
    return command.run()


@pytest.mark.parametrize("model", ["tiny-llava", "tiny-qwen2.5-vl"])
@torch.inference_mode()
def test_native_is_the_models_own_work_on_as_many_tokens(model):
    case = Case(model, 36, batch=2)
    if model == "tiny-llava":  # with three axes, an image's ids follow its grid, which fewer tokens have none of
        assert case.native(case.tokens).logits.equal(case.stock().logits)
    first = case.pruned(First(keep="0.25"), "reassigned").logits
    assert_near(case.native(kept("0.25", case.tokens)).logits, first, 1e-5)
    assert not torch.allclose(case.native(8).logits, first, rtol=1e-2)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_a_second_run_goes_on_where_the_first_one_stopped(name, tmp_path, monkeypatch):
    out, words = tmp_path / "found.json", (name, *SUBCOMMANDS[name], "--out", tmp_path / "found.json")
    assert run(monkeypatch, *words) == 0
    found = json.loads(out.read_text())
    assert all(cell["ratios"] for cell in found["cells"].values())
    assert found["plan"]["seed"] == 0
    last, _ = found["cells"].popitem()
    out.write_text(json.dumps(found))
    assert run(monkeypatch, *words) == 0
    again = json.loads(out.read_text())["cells"]
    assert again == {**found["cells"], last: again[last]}


def test_what_was_measured_otherwise_is_not_gone_on_with(tmp_path, monkeypatch, capsys):
    out = tmp_path / "found.json"
    Cells(out, seed=0, device="cpu", dtype="float32").measure("a", lambda: {"ratios": {}})
    assert run(monkeypatch, "ttft", *TINY, "--seed", 1, "--out", out) == 2
    assert "seed: 0 there, 1 here): give another --out" in capsys.readouterr().err
    out.write_text("{}")
    assert run(monkeypatch, "ttft", *TINY, "--out", out) == 2
    assert "holds no cells" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ttft", "--model", "llama", "--out", "x.json"), "model"),
        (("ttft", "--tokens", "many", "--out", "x.json"), "whole numbers"),
        (("ttft", "--tiny"), "give --out"),
        (("ttft", "--device", "tpu"), "cpu or cuda"),
        (("batch", "--tiny", "--sizes", "0", "--out", "x.json"), "whole numbers"),
        (("official", "nowhere", "--out", "x.json"), "python -m benchmarks fetch"),
        (("official", "nowhere", "--only", "magic"), "method"),
    ],
)
def test_bad_words_are_told_in_a_line(words, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(tmp_path.iterdir())


def test_every_variant_runs_once_a_round_and_the_first_round_is_not_told():
    calls = []

    def of(name, seconds):
        return lambda: calls.append(name) or seconds

    rounds = take_turns({"a": of("a", 3.0), "b": of("b", 2.0)}, 5)
    assert rounds == [{"a": 3.0, "b": 2.0}] * 5
    assert [sorted(calls[i : i + 2]) for i in range(0, 12, 2)] == [["a", "b"]] * 6
    assert ratio(rounds, "a", "b") == {"over": "b", "ratio": 1.5, "interval": [1.5, 1.5]}


def test_a_machine_that_slows_down_does_not_move_a_ratio():
    rounds = [{"a": 1.1 * slow, "b": slow} for slow in (1.0, 3.0, 1.0, 9.0, 2.0, 5.0)]
    assert ratio(rounds, "a", "b")["ratio"] == 1.1
    assert ratio(rounds, "a", "b")["interval"] == [1.1, 1.1]
    noisy = [{"a": x, "b": 1.0} for x in (0.8, 0.9, 1.0, 1.1, 1.2)]
    low, high = ratio(noisy, "a", "b")["interval"]
    assert low < 1 < high
    assert ratio(rounds[:2], "a", "b")["interval"] == [0.0, 2.0]  # too few to say anything


@pytest.mark.parametrize("tokens", [576, 2916])
def test_both_sides_of_a_comparison_keep_as_many_tokens(tokens):
    def numbers(of):
        return of(tokens).split(":")[1:]

    zipped = METHODS["visionzip"]
    assert sum(map(int, numbers(zipped.theirs))) == int(zipped.ours(tokens).partition("tokens=")[2])
    faster = METHODS["fastervlm"]
    assert numbers(faster.theirs) == [faster.ours(tokens).partition("tokens=")[2]]
    # 300 and 200, and the clusters of what is dropped.
    expected = {576: "309/204", 2916: "379/206"}[tokens]
    assert METHODS["sparsevlm-1.5"].ours(tokens) == f"sparsevlm 1.5 {expected}"
    assert METHODS["sparsevlm-2.0"].ours(tokens) == "sparsevlm 2.0 300/200"
    layer, share = numbers(METHODS["fastv"].theirs)
    average = gp.FastV(keep="17/32", layer=int(layer)).stages(8)
    assert average[-1].budget.count(tokens) == round(float(share) * tokens)


def test_a_worker_that_cannot_start_is_an_entry_not_an_end(tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho nothing here; exit 1\n")
    python.chmod(0o755)
    out = tmp_path / "found.json"
    compare(tmp_path, out, [576], [1], ["visionzip"], "cpu", 1, 0)
    assert "did not start" in json.loads(out.read_text())["cells"]["visionzip 576 batch 1"]["error"]


def test_a_choice_is_timed_and_leaves_what_it_should():
    counts, seconds = measured(reachable("divprune", 576), 576, torch.randn(576, 64), Tower(), 1)
    assert counts == [144]
    assert seconds > 0


def test_engines_of_vllm_are_compared_round_by_round():
    """A machine that slows down changes no ratio; the round that warms up counts for neither clock."""
    speed = {"stock": 4.0, "keep 0.5": 1.0}

    def engine(name):
        calls = iter(range(100))

        def measured():
            slower = 100.0 if (call := next(calls)) == 0 else 1.0 + call
            return Cost(speed[name] * slower, 3 * speed[name] * slower, {"stock": 583, "keep 0.5": 295}[name])

        return measured

    found = compare_engines({name: engine(name) for name in speed}, 6)
    assert found["slots"] == {"stock": 583, "keep 0.5": 295}
    for clock, factor in (("processor", 1), ("wall", 3)):
        assert [each["stock"] for each in found["seconds"][clock]] == [factor * 4.0 * (1 + i) for i in range(1, 7)]
        assert found["ratios"][clock] == {"keep 0.5": {"over": "stock", "ratio": 0.25, "interval": [0.25, 0.25]}}
        assert found["median"][clock]["stock"] == factor * 4.0 * 4.5
