"""`evaluate` in several processes: what one process finds, to the byte, whatever happens to one of them."""

import functools
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState, debug_launcher
from torch.multiprocessing.spawn import ProcessExitedException

from groundprune.cli import main
from groundprune.data.scenes import scene_samples
from groundprune.errors import GroundPruneError, Unservable
from groundprune.evaluation import Runner, Setting, evaluate, preparing, read_rows, read_summary
from groundprune.evaluation.devices import check_placing
from groundprune.evaluation.parts import Part
from groundprune.evaluation.preparing import Prepared, Words
from groundprune.evaluation.processes import Ranks
from groundprune.evaluation.results import Results

SCENES = {
    "data": "scenes", "limit": 10, "seed": 5, "pruners": ["cls-visual", "fastv"], "keeps": [0.5],
    "positions": ["preserved", "reassigned"], "batch_size": 4, "progress": False,
}  # fmt: skip
# Ends its own process, or interrupts all of them as Ctrl-C does, where a file says so; each once.
FATAL = """
import os, signal
from pathlib import Path
import groundprune as gp


class Fatal(gp.Pruner):
    name = "fatal"

    def score(self, signals, layout, stage):
        for word, process in (("kill", os.getpid()), ("interrupt", os.getppid())):
            order = Path(__file__).with_name(word)
            if os.environ.get("RANK") == "1" and order.exists():
                order.unlink()
                os.kill(process, signal.SIGKILL if word == "kill" else signal.SIGINT)
                signal.pause()
        return signals.projected.norm(dim=-1)
"""


def lines(folder):
    return sorted((folder / "samples.jsonl").read_bytes().splitlines())


def found(folder):
    """Of a summary, what the answers alone say."""
    summary = read_summary(folder)
    about = {key: summary.about.get(key) for key in ("skipped", "unreadable")}
    return summary.settings, summary.differences, summary.complete, summary.run, about


def files(folder):
    return {path.name for path in folder.iterdir()} - {".running.lock"}


def _forked():
    """torch replaces its thread pool in a forked process, and must not be asked to by two threads at once.

    A test before this one may have told accelerate that its process, from which this one is forked, runs alone.
    """
    torch.set_num_threads(1)
    PartialState._reset_state()


def _evaluate(job):
    _forked()
    summary = evaluate(**job, ranks=Ranks.launched("cpu"))
    assert summary.complete == read_summary(job["out"]).complete, "every process gets the whole"


def in_two(job):
    debug_launcher(_evaluate, (job,), num_processes=2)


def _command(words):
    _forked()
    sys.exit(main(words))


@pytest.fixture
def small_chunks(monkeypatch):
    """So that there are more of them than processes."""
    monkeypatch.setattr(preparing, "ENCODE_BATCH", 4)


@pytest.fixture
def photos(tmp_path):
    """Drawn scenes as files, with three expressions each; the fourth file is broken off."""
    rows = []
    for i, sample in enumerate(itertools.islice(scene_samples(6, seed=3), 6)):
        sample.image.save(tmp_path / f"{i}.png")
        if i == 3:
            (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:1000])
        for text in (sample.text, "the red circle", "the star"):
            rows.append({"image": f"{i}.png", "expression": text, "bbox": list(sample.box or ())})
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "mine.jsonl"


def test_two_processes_find_what_one_finds(tmp_path, small_chunks, monkeypatch):
    with monkeypatch.context() as patched:
        for name in ("PartialState", "utils.gather_object", "utils.broadcast_object_list"):
            patched.setattr(f"accelerate.{name}", lambda *given, **named: pytest.fail("one process asks nobody"))
        evaluate(**SCENES, out=tmp_path / "one", ranks=Ranks.launched())
    in_two({**SCENES, "out": tmp_path / "two"})
    assert lines(tmp_path / "two") == lines(tmp_path / "one")
    assert found(tmp_path / "two") == found(tmp_path / "one")
    assert read_summary(tmp_path / "two").about["processes"] == 2
    assert files(tmp_path / "two") == {"samples.jsonl", "summary.json"}


def test_window_by_window_and_each_image_is_encoded_once(photos, tmp_path, monkeypatch):
    """Also where a sample cannot be read; and a run that goes on in two processes answers what is missing alone."""
    job = {"data": str(photos), "pruners": ["random"], "keeps": [0.5], "positions": ["preserved"]}
    job |= {"batch_size": 2, "window": 3, "progress": False}
    evaluate(**job, out=tmp_path / "one")
    stock, log = preparing.encode, tmp_path / "log"

    def counted(model, inputs, pruners):
        with log.open("a") as file:
            file.write(f"{os.getpid()} {len(inputs['input_ids'])}\n")
        return stock(model, inputs, pruners)

    monkeypatch.setattr(preparing, "encode", counted)
    monkeypatch.setattr(preparing, "ENCODE_BATCH", 2)
    in_two({**job, "out": tmp_path / "two"})
    counts = [line.split() for line in log.read_text().splitlines()]
    assert sum(int(images) for _, images in counts) == 5
    assert len({process for process, _ in counts}) == 2
    assert lines(tmp_path / "two") == lines(tmp_path / "one")
    assert found(tmp_path / "two") == found(tmp_path / "one")
    assert read_summary(tmp_path / "two").about["unreadable"]["samples"] == 3

    kept = (tmp_path / "two" / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "two" / "samples.jsonl").write_bytes(b"".join(kept[:-7]))
    log.unlink()
    in_two({**job, "out": tmp_path / "two"})
    assert lines(tmp_path / "two") == lines(tmp_path / "one")
    assert sum(int(line.split()[1]) for line in log.read_text().splitlines()) < 5, "a whole window was there"


def test_a_setting_ends_where_it_ends_in_one_process(tmp_path, small_chunks, monkeypatch):
    """At the first batch that cannot be run, though another process has run later ones by then."""
    stock = Runner._answers

    def refusing(self, setting, batch):
        if setting.pruner == "cls-visual" and self.batches().index(batch) in (2, 3):
            raise Unservable(f"not batch {self.batches().index(batch)}")
        return stock(self, setting, batch)

    monkeypatch.setattr(Runner, "_answers", refusing)
    evaluate(**SCENES, out=tmp_path / "one")
    in_two({**SCENES, "out": tmp_path / "two"})
    assert set(read_summary(tmp_path / "one").skipped.values()) == {"not batch 2"}
    assert lines(tmp_path / "two") == lines(tmp_path / "one")
    assert found(tmp_path / "two") == found(tmp_path / "one")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep", "2"], "keep"),
        (["--device", "cuda:1"], "each takes its own device: cpu or cuda, not cuda:1"),
        (["--device-map", "auto"], "a device map spreads one model"),
        (["--processes", "3"], "--processes 3, but a launcher has started 2"),
        (["--engine", "vllm"], "--data-parallel-size"),
        ([], "is being written to by another run"),
    ],
)
def test_a_mistake_of_all_processes_is_one_line(words, message, tmp_path, capfd):
    given = ["evaluate", "--limit", "1", "--pruner", "random", "--out", str(tmp_path), *words]
    raises = pytest.raises(ProcessExitedException, match="exit code 2")
    with Results(tmp_path, {"a": 1}, {"command": "the first"}, [Setting.of()], 1), raises:
        debug_launcher(_command, (given,), num_processes=2)
    said = capfd.readouterr()
    assert message in said.err
    assert said.err.count("groundprune: ") == 1
    assert "Traceback" not in said.err
    assert not said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes", "2", "--keep", "2"], "keep"),
        (["--processes", "2", "--data", "refcok:val"], "did you mean 'refcoco"),
        (["--processes", "2", "--device", "cuda:1"], "cpu or cuda, not cuda:1"),
        (["--processes", "2", "--device-map", "auto"], "a device map spreads one model"),
        (["--processes", "2", "--engine", "vllm"], "--data-parallel-size"),
        (["--device", "cpu", "--device-map", "auto"], "either a device or a device map"),
        (["--engine", "vllm", "--device-map", "auto"], "--device-map needs --engine transformers"),
    ],
)
def test_a_mistake_is_named_before_anything_is_launched(words, message, monkeypatch, capsys):
    monkeypatch.setattr("groundprune.cli.evaluate.launch", lambda *given: pytest.fail("launched"))
    assert main(["evaluate", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("placed", [{"processes": 2, "device_map": None}, {"processes": 1, "device_map": "auto"}])
def test_without_accelerate_the_extra_is_named(placed, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(GroundPruneError, match=r"groundprune\[eval\]"):
        check_placing(None, **placed)
    check_placing("cuda:1", None, 1)


def test_batches_are_shared_whole():
    words = [Words({"input_ids": [0] * (i % 5)}, {}, (4, 4), 1, i) for i in range(23)]  # pyright: ignore
    samples: list = [type("S", (), {"kind": "rec" if i % 3 else "vqa"})() for i in range(23)]
    prepared = Prepared(samples, words, None)
    whole = list(enumerate(prepared.batches(4)))
    for count in (1, 2, 3, 9):
        shares = [prepared.share(4, Ranks(rank, count)) for rank in range(count)]
        assert sorted(pair for share in shares for pair in share) == whole
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def row(sample):
    return {
        "setting": "unpruned", "sample": sample, "kind": "vqa", "type": "color", "answer": "?", "correct": True,
        "iou": None, "box": None, "kept": 144,
    }  # fmt: skip


def opened(folder):
    return Results(folder, {"a": 1}, {}, [Setting.of()], 4)


def test_what_killed_processes_left_is_taken_once(tmp_path):
    """One part was taken, but not deleted, when its process was killed; another ends in half a line."""
    with opened(tmp_path) as results:
        results.add([row("a")])
    for rank, left in ((0, [row("a"), row("b")]), (3, [row("c")])):
        part = Part(tmp_path, Ranks(rank, 4))
        part.add(left)
        part.close()
    with (tmp_path / "samples.rank3.jsonl").open("a") as file:
        file.write('{"setting": "unpru')
    with opened(tmp_path) as results:
        assert results.done(Setting.of()) == {"a", "b", "c"}
        assert read_summary(tmp_path).settings[0].vqa.total.n == 3
        assert files(tmp_path) == {"samples.jsonl", "summary.json", ".running"}
    assert [sample for _, sample in read_rows(tmp_path / "samples.jsonl")] == ["a", "b", "c"]
    part = Part(tmp_path, Ranks(1, 2))
    part.add([{**row("a"), "answer": "another"}])
    part.close()
    with pytest.raises(GroundPruneError, match=r"samples\.rank1\.jsonl: sample a of unpruned is there twice"):
        opened(tmp_path)


def run_module(folder, *words):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment, cwd=folder)


def test_killed_interrupted_and_resumed_by_each_launcher(tmp_path):
    """Nothing that was answered is lost, and the end is that of one process which nothing happened to."""
    (tmp_path / "own.py").write_text(FATAL)
    pruner, out = f"{tmp_path / 'own.py'}:Fatal", tmp_path / "run"
    job = {**SCENES, "limit": 8, "pruners": [pruner], "positions": ["preserved"]}
    evaluate(**job, out=tmp_path / "one")
    words = ["evaluate", "--limit", "8", "--seed", "5", "--pruner", pruner, "--keep", "0.5", "--positions"]
    words += ["preserved", "--batch-size", "4", "--out", str(out), "--device", "cpu"]

    run = functools.partial(run_module, tmp_path)

    (tmp_path / "kill").touch()
    killed = run("groundprune", *words, "--processes", "2")
    assert (killed.returncode, killed.stdout) == (2, "")
    assert killed.stderr == (
        "groundprune: process 1 of 2 was ended by SIGKILL: the same command goes on from what --out holds\n"
    )
    parts = [read_rows(out / f"samples.rank{rank}.jsonl") for rank in range(2)]
    assert len(parts[1]) == 8, "it was killed in its second setting"

    (tmp_path / "interrupt").touch()
    interrupted = run("groundprune", *words, "--processes", "2")
    assert (interrupted.returncode, interrupted.stdout) == (130, "")
    assert interrupted.stderr.startswith("interrupted: ")
    assert "Traceback" not in interrupted.stderr
    stored = read_rows(out / "samples.jsonl")
    assert all(stored[key] == row for part in parts for key, row in part.items())

    resumed = run("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "groundprune", *words)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("results  ") == 1
    assert lines(out) == lines(tmp_path / "one")
    assert found(out) == found(tmp_path / "one")
    assert len(read_summary(out).about["resumed"]) >= 1

    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    again = run(*launcher, "-m", "groundprune", *words, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["complete"]
    assert lines(out) == lines(tmp_path / "one")
    assert Path(out / "report.html").is_file()


def test_processes_leave_their_group_before_python_ends(tmp_path):
    """Else some of them end by SIGABRT, and the launcher calls a run failed that has answered everything."""
    (tmp_path / "script.py").write_text(
        "import atexit, os, pathlib\n"
        "from torch import distributed\n"
        "from groundprune.evaluation.processes import Ranks\n"
        "said = pathlib.Path(os.environ['RANK'])\n"
        "atexit.register(lambda: said.write_text(f'{joined} {distributed.is_initialized()}'))\n"
        "joined = Ranks.launched('cpu').gather(distributed.is_initialized())\n"
    )
    run = run_module(tmp_path, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py")
    assert run.returncode == 0, run.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["[True, True] False"] * 2
