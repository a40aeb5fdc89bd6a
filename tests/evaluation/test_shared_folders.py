"""One folder of results, several runs: at once, one after the other, killed, looked at while one goes on."""

import json
import signal
import subprocess
import sys

import pytest

from groundprune.cli import main
from groundprune.errors import GroundPruneError
from groundprune.evaluation import Setting, compare, read_rows, read_summary
from groundprune.evaluation.results import Results
from groundprune.report.page import write_report

SETTINGS = [Setting.of()]
QUICK = {"scenes": 2, "pruners": ["random"], "keeps": [0.5], "positions": ["preserved"], "progress": False}
HOLD = """
import sys, time
from groundprune.evaluation import Setting
from groundprune.evaluation.results import Results
with Results(sys.argv[1], {"a": 1}, {"command": "groundprune the first"}, [Setting.of()], 1) as results:
    results._file.write('{"setting": "unpru')
    results._file.flush()
    print("held", flush=True)
    time.sleep(600)
"""


def row(sample, correct=True):
    return {
        "setting": "unpruned", "sample": sample, "kind": "vqa", "type": "color", "answer": "?", "correct": correct,
        "iou": None, "box": None, "kept": 144,
    }  # fmt: skip


def opened(folder):
    return Results(folder, {"a": 1}, {"command": "groundprune this"}, SETTINGS, 1)


@pytest.fixture
def another(tmp_path):
    """(folder, a process that writes to it)."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield tmp_path, process
    finally:
        process.kill()
        process.wait()


def test_a_second_run_at_once_is_told_who_runs(another):
    folder, process = another
    before = (folder / "samples.jsonl").read_bytes()
    for _ in range(2):  # being refused does not take the lock away
        with pytest.raises(GroundPruneError, match=rf"process {process.pid} on .*: groundprune the first"):
            opened(folder)
    assert (folder / "samples.jsonl").read_bytes() == before


def test_a_killed_run_leaves_no_lock_and_no_half_line(another):
    folder, process = another
    process.send_signal(signal.SIGKILL)
    process.wait()
    with opened(folder) as results:
        results.add([row("a")])
    assert list(read_rows(folder / "samples.jsonl")) == [("unpruned", "a")]


def test_a_run_that_is_refused_or_done_lets_go(tmp_path):
    with opened(tmp_path), pytest.raises(GroundPruneError, match="by another run"):
        opened(tmp_path)
    with pytest.raises(GroundPruneError, match="holds another run"):
        Results(tmp_path, {"a": 2}, {}, SETTINGS, 1)
    with opened(tmp_path):
        pass
    assert not (tmp_path / ".running").exists()


def test_the_command_line_says_it_in_one_line(another, capsys):
    folder, process = another
    words = ["compare", "--scenes", "1", "--pruner", "random", "--keep", "0.5", "--out", str(folder)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"process {process.pid}" in said
    assert said.count("\n") == 1


def test_the_same_line_twice_is_healed(tmp_path):
    path = tmp_path / "samples.jsonl"
    with opened(tmp_path) as results:
        results.add([row("a"), row("b")])
    whole = path.read_bytes()
    path.write_bytes(whole + whole + b'{"setting"')
    assert len(read_rows(path)) == 2
    assert path.read_bytes() != whole, "reading alone changes nothing"
    with opened(tmp_path):
        pass
    assert path.read_bytes() == whole
    path.write_bytes(whole + json.dumps(row("a", False)).encode() + b"\n")
    with pytest.raises(GroundPruneError, match="line 3: sample a of unpruned is there twice, with two answers"):
        opened(tmp_path)


def test_a_report_while_a_run_goes_on(tmp_path):
    compare(out=tmp_path, **QUICK)
    stored = read_summary(tmp_path)
    with Results(tmp_path, stored.run, {}, [r.setting for r in stored.settings], 4) as results:
        results.add([{**row("later"), "setting": "random/keep=0.5/preserved"}])
        with (tmp_path / "samples.jsonl").open("ab") as file:
            file.write(b'{"setting": "random/ke')
        page = write_report(tmp_path, samples=1).read_text(encoding="utf-8")
        assert "<html" in page
        results.save()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
def test_a_full_disk_is_one_line(tmp_path):
    results = Results(None, {}, {}, SETTINGS, 1)
    results.folder = tmp_path
    results._file = open("/dev/full", "a")  # noqa: SIM115
    with results, pytest.raises(GroundPruneError, match=r"cannot write results to .*No space left"):
        results.add([row("a")])
