"""Result files: resumed, damaged, mixed up, summarised, shown."""

import io
import json
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from rich.console import Console

from groundprune.errors import GroundPruneError
from groundprune.evaluation import Runner, Setting, compare, read_rows, read_summary, summarize
from groundprune.evaluation.identity import about_this_run
from groundprune.evaluation.results import Results
from groundprune.report.tables import markdown_table, print_tables

ROOT = Path(__file__).parents[2]
QUICK = {"scenes": 2, "pruners": ["random", "spatial"], "keeps": [0.1], "batch_size": 2, "progress": False}
SETTINGS = [Setting.of(), Setting.of("random", 0.5), Setting.of("random", 0.5, positions="reassigned")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "run"
    return folder, compare(out=folder, **QUICK)


def lines(folder):
    return sorted((folder / "samples.jsonl").read_bytes().splitlines())


def row(setting, sample, correct, kind="rec", box=(0, 0, 1, 1)):
    iou = (1.0 if correct else 0.0) if kind == "rec" else None
    return {
        "setting": setting.id, "sample": sample, "kind": kind, "type": "color", "answer": "?", "correct": correct,
        "iou": iou, "box": list(box) if box else None, "kept": 72,
    }  # fmt: skip


def test_a_run_is_stored_as_it_is_returned(finished):
    folder, summary = finished
    assert summary.complete
    assert read_summary(folder) == read_summary(folder / "summary.json") == summary
    assert len(lines(folder)) == len(summary.settings) * 4
    assert {"command", "versions", "date", "device", "batch_size", "llm_layers", "skipped"} == set(summary.about)


def test_a_finished_run_is_not_run_again(finished, monkeypatch):
    folder, summary = finished
    before = lines(folder)
    monkeypatch.setattr(Runner, "prepare", lambda *given: pytest.fail("nothing was missing"))
    assert compare(out=folder, **QUICK).settings == summary.settings
    assert lines(folder) == before


def test_interrupted_and_resumed_equals_uninterrupted(finished, tmp_path, monkeypatch):
    whole, summary = finished
    out = tmp_path / "run"
    uninterrupted = Runner.run

    def interrupted(self, setting, done=()):
        for index, rows in enumerate(uninterrupted(self, setting, done)):
            if setting.pruner == "random" and index == 1:
                raise KeyboardInterrupt
            yield rows

    said = Console(file=io.StringIO(), width=200)
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare(out=out, console=said, **QUICK)
    text = said.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert text.startswith("interrupted: 6 answers are in")
    assert text.count("\n") == 1
    assert not read_summary(out).complete

    resumed = compare(out=out, **QUICK)
    assert lines(out) == lines(whole)
    assert (resumed.settings, resumed.differences) == (summary.settings, summary.differences)


def test_a_half_written_line_is_dropped(finished, tmp_path):
    whole, _ = finished
    out = tmp_path / "run"
    out.mkdir()
    (out / "summary.json").write_bytes((whole / "summary.json").read_bytes())
    content = (whole / "samples.jsonl").read_bytes()
    (out / "samples.jsonl").write_bytes(content[: len(content) // 2 + 7])
    assert not (out / "samples.jsonl").read_bytes().endswith(b"\n")
    compare(out=out, **QUICK)
    assert lines(out) == lines(whole)


@pytest.mark.parametrize(
    ("other", "named"), [({"scenes": 3}, "scenes: 2 there, 3 here"), ({"seed": 5}, "seed: 0 there")]
)
def test_another_run_is_not_mixed_in(finished, other, named):
    folder, _ = finished
    before = lines(folder)
    with pytest.raises(GroundPruneError, match=named):
        compare(out=folder, **{**QUICK, **other})
    assert lines(folder) == before


def test_more_settings_can_join_a_run(finished, tmp_path):
    whole, _ = finished
    out = tmp_path / "run"
    out.mkdir()
    for name in ("summary.json", "samples.jsonl"):
        (out / name).write_bytes((whole / name).read_bytes())
    joined = compare(out=out, **{**QUICK, "pruners": ["cls-visual"], "positions": ["preserved"]})
    assert joined.complete
    assert joined.result("random/keep=0.1/reassigned") is not None
    assert set(lines(whole)) < set(lines(out))


def test_damage_is_named(tmp_path):
    path = tmp_path / "samples.jsonl"
    good = json.dumps(row(SETTINGS[0], "a", True))
    path.write_text(good + "\nnonsense\n" + good + "\n")
    with pytest.raises(GroundPruneError, match="line 2: not a result row"):
        read_rows(path)
    path.write_text(good + "\n" + json.dumps(row(SETTINGS[0], "a", False)) + "\n")
    with pytest.raises(GroundPruneError, match=r"line 2.*twice"):
        read_rows(path)
    with pytest.raises(GroundPruneError, match=r"without summary\.json"):
        Results(tmp_path, {}, {}, SETTINGS, 1)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(GroundPruneError, match="not a summary"):
        read_summary(tmp_path)


def test_a_file_is_no_folder_for_results(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(GroundPruneError, match="cannot write results"):
        Results(tmp_path / "file", {}, {}, SETTINGS, 1)


def test_no_sample_is_stored_twice():
    with Results(None, {}, {}, SETTINGS, 1) as results:
        results.add([row(SETTINGS[0], "a", True)])
        with pytest.raises(GroundPruneError, match="twice"):
            results.add([row(SETTINGS[0], "a", True)])


@pytest.fixture
def summary():
    rows = [row(SETTINGS[0], str(i), i < 9) for i in range(10)]
    rows += [row(SETTINGS[1], str(i), i < 8) for i in range(10)]
    rows += [row(SETTINGS[2], str(i), i < 5, box=None if i > 7 else (0, 0, 1, 1)) for i in range(10)]
    rows += [row(s, f"q{i}", i < 2, "vqa", None) for s in SETTINGS for i in range(4)]
    return summarize({"seed": 0, "scenes": 10}, {}, SETTINGS, rows, 14)


def test_summary(summary):
    assert summary.complete
    reassigned = summary.settings[2]
    assert (reassigned.rec.total.correct, reassigned.rec.malformed, reassigned.rec.mean_iou) == (5, 2, 0.5)
    assert (reassigned.vqa.total.n, reassigned.vqa.malformed) == (4, None)
    assert [(d.kind, d.n, d.difference) for d in summary.differences] == [
        ("rec", 10, pytest.approx(0.3)),
        ("vqa", 4, 0),
    ]


def test_tables(summary):
    markdown = markdown_table([summary])
    # Wilson's interval is asymmetric, and stays within 0 to 100.
    cells = "80.0 [49.0, 94.3] | 50.0 [23.7, 76.3] | 50.0 [15.0, 85.0] | 50.0 [15.0, 85.0]"
    assert f"| random | 0.5 (72) | {cells} |" in markdown
    assert "in brackets 95% intervals (of accuracies Wilson's, of differences the paired bootstrap's)" in markdown
    assert "at most 20.0% (random 0.5, reassigned)" in markdown
    shown = Console(file=io.StringIO(), width=80)
    print_tables(summary, shown)
    text = shown.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "+30.0 [" in text
    lines = text.splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith("random") and "80.0" in line)
    assert "[49.0, 94.3]" in lines[number + 1], "80 columns hold a number above its interval"
    assert max(map(len, lines)) <= 80


def test_tables_average_training_seeds(summary):
    rows = [row(s, str(i), i < 6) for s in SETTINGS for i in range(10)]
    other = summarize({"seed": 0, "scenes": 10}, {}, SETTINGS, rows, 10)
    markdown = markdown_table([summary, other])
    assert "| random | 0.5 (72) | 70.0 [31.3, 94.3] | 55.0 [23.7, 83.2] | - | - |" in markdown
    assert "mean over 2 training seeds [span of their 95% intervals" in markdown
    fewer = summarize({}, {}, SETTINGS[:1], rows, 10)
    with pytest.raises(GroundPruneError, match="different settings"):
        markdown_table([summary, fewer])
    with pytest.raises(GroundPruneError, match="at least one"):
        markdown_table([])


def test_stored_figures_are_intervals_within_their_range():
    """Whatever is generated: every interval holds its number, and an accuracy's lies within 0 to 100."""
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").split("<!-- end of results -->")[0]
    found = re.findall(r"([-+]?)([\d.]+) \[([-+\d.]+), ([-+\d.]+)\]", page)
    assert len(found) > 50
    for sign, value, low, high in found:
        assert float(low) <= float(sign + value) <= float(high)
        assert (-100 if sign else 0) <= float(low)
        assert float(high) <= 100
    assert "±" not in page


@pytest.mark.parametrize(
    ("module", "program"),
    [("groundprune.__main__", "python -m groundprune"), ("tools.asking", "python -m tools.asking")],
)
def test_a_run_names_the_module_that_ran_it(module, program, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec(module, None))
    monkeypatch.setattr(sys, "argv", ["somewhere/__main__.py", "--out", "a folder"])
    assert about_this_run("cpu", 1, 1)["command"] == f"{program} --out 'a folder'"


def test_a_run_names_the_script_that_ran_it(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/groundprune", "compare"])
    assert about_this_run("cpu", 1, 1)["command"] == "groundprune compare"
