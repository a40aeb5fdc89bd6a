"""`evaluate --engine vllm`: the answers of the transformers path, from vLLM's engines."""

import contextlib
import json
import os
import signal
import time

import psutil
import pytest

import groundprune as gp
from groundprune.cli import main
from groundprune.data.scenes import scene_samples
from groundprune.evaluation import Runner, Setting
from groundprune.integrations.vllm.answering import DEFAULTS, EngineRunner
from groundprune.integrations.vllm.engine import Engine
from groundprune.integrations.vllm.server import engine_folder

GRID = ["--limit", "8", "--pruner", "cls-visual", "--keep", "0.5", "--positions", "preserved"]
QUICK = {"enforce_eager": True, "distributed_executor_backend": "uni"}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path_factory):
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp()))


def run(*options):
    return main(["evaluate", "--model", "pocket", *options])


def comparable(row):
    """How many tokens were kept, not which: vLLM does not say that, nor what its tower costs."""
    known = {k: v for k, v in row.items() if k not in ("grids", "kept_cells")}
    return str({**known, "cost": {k: v for k, v in row["cost"].items() if k != "tower_flops"}})


def rows(folder):
    return sorted(comparable(json.loads(line)) for line in (folder / "samples.jsonl").read_text().splitlines())


def test_the_rows_are_those_of_the_transformers_path_and_a_rerun_finishes_them(tmp_path, capfd):
    ours, theirs = tmp_path / "vllm", tmp_path / "transformers"
    given = ["--engine", "vllm", "--engine-args", json.dumps(QUICK), "--out", str(ours), *GRID]
    assert run(*given, "--json") == 0
    assert json.loads(capfd.readouterr().out)["complete"]  # what vLLM says goes to stderr
    assert run("--out", str(theirs), *GRID) == 0
    assert rows(ours) == rows(theirs)
    whole = rows(ours)
    lines = (ours / "samples.jsonl").read_text().splitlines(keepends=True)
    (ours / "samples.jsonl").write_text("".join(lines[:-3]))  # of the last setting, so that one engine is enough
    assert run(*given) == 0
    assert rows(ours) == whole
    about = json.loads((ours / "summary.json").read_text())
    assert about["run"]["engine"] == "vllm"
    assert "vllm" in about["about"]["versions"]
    assert run("--out", str(ours), *GRID) == 2  # not the same run
    assert "engine: 'vllm' there" in capfd.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"tensor_parallel_size": 2}, id="tensor"),
        pytest.param({"data_parallel_size": 2, "enforce_eager": True}, id="data", marks=pytest.mark.thorough),
    ],
)
def test_two_processes_answer_as_one(options, monkeypatch):
    """The first also as vLLM runs by default, compiled."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # of two processes each wants a NUMA node of its own
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    setting, samples = Setting.of("coverage", 0.5), list(scene_samples(6, 0, "held-out"))
    two = EngineRunner("pocket", samples, 64, "native", {**DEFAULTS, "dtype": "float32", **options})
    one = Runner(*gp.load("pocket"), samples)
    for runner in (one, two):
        runner.prepare([setting])
    found, expected = ([row for rows in runner.run(setting) for row in rows] for runner in (two, one))
    assert sorted(map(comparable, found)) == sorted(map(comparable, expected))


def test_an_engine_that_is_killed_is_noticed_and_leaves_nothing():
    arguments = {"model": engine_folder("pocket"), "dtype": "float32", "enforce_eager": True, "max_model_len": 512}
    with Engine(arguments) as engine:
        group = engine._process.pid
        assert len(processes(group)) > 1
        os.kill(group, signal.SIGKILL)
        with pytest.raises(gp.GroundPruneError, match="ended by itself"):
            engine.reply()
    end = time.monotonic() + 10  # they are killed, which takes a moment
    while processes(group):
        assert time.monotonic() < end
        time.sleep(0.1)


def processes(group):
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_what_vllm_cannot_run_is_skipped_by_name_and_alone_refused(tmp_path, capfd):
    alone = ["--engine", "vllm", "--limit", "2", "--keep", "0.5", "--positions", "preserved"]
    assert run(*alone, "--pruner", "fastv") == 2
    assert "prunes between layers" in capfd.readouterr().err
    assert run(*alone, "--pruner", "cls-visual", "--engine-args", "[1]") == 2
    assert "JSON object (got [1])" in capfd.readouterr().err
    assert run(*alone, "--pruner", "cls-visual", "--engine-args", '{"no_such_argument": 1}') == 2
    error = capfd.readouterr().err
    assert "vLLM ended" in error.strip().splitlines()[-1]
    assert "no_such_argument" in error
