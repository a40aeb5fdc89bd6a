"""A study's runs: resumed, refused where they do not belong together, and concluded from what is stored."""

import json
import shutil

import pytest

from groundprune import version
from groundprune.cli import main
from groundprune.errors import GroundPruneError
from groundprune.evaluation.runner import Runner
from groundprune.studies import running
from groundprune.studies.parts.effects import Effect, negative, no_difference, positive
from groundprune.studies.running import Asked, conclude, models_of, read_run, run_study
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Bench, studies, study_of
from tools.docs.studies import keep, kept

STUDY = study_of("misalignment")
POCKET = {"pocket": "pocket"}


def small(**options):
    return Asked(POCKET, limit=2, quick=True, **options)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return out, run_study(STUDY, small(), out, progress=False)


def test_a_run_leaves_rows_findings_a_figure_and_a_page(ran):
    out, findings = ran
    run = read_run(out / "misalignment" / "pocket")
    assert len(run.rows) == 4 * (len(STUDY.settings(True)) - len(run.skipped))
    stored = json.loads((out / "misalignment" / "findings.json").read_text())
    assert stored["answer"] == findings.answer
    assert stored["runs"]["pocket"]["scenes"] == 2
    page = (out / "misalignment" / "page.md").read_text()
    assert STUDY.question in page
    assert all(claim.verdict in page for claim in findings.claims)
    assert (out / "misalignment" / "figure.svg").read_text().startswith("<?xml")
    assert (out / "misalignment" / "figure.png").stat().st_size > 10_000


def test_a_second_run_asks_nothing(ran, monkeypatch):
    out, findings = ran
    monkeypatch.setattr(Runner, "prepare", lambda *given: pytest.fail("nothing was missing"))
    assert run_study(STUDY, small(), out, progress=False) == findings


def test_an_interrupted_run_goes_on(ran, tmp_path):
    out, findings = ran
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "misalignment" / "pocket" / "samples.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-7]) + lines[-7][:20])
    assert run_study(STUDY, small(), tmp_path, progress=False) == findings
    assert sorted(file.read_text().splitlines()) == sorted("".join(lines).splitlines())


@pytest.mark.parametrize("other", [{"seed": 1}, {"limit": 3}, {"quick": False}])
def test_a_run_of_another_kind_is_refused(ran, other):
    with pytest.raises(GroundPruneError, match="another"):
        run_study(STUDY, Asked(POCKET, **{"limit": 2, "quick": True, **other}), ran[0], progress=False)


def test_what_the_repository_keeps_says_the_same(ran, tmp_path):
    out, findings = ran
    assert keep(out, tmp_path) == [STUDY]
    assert kept(tmp_path)[STUDY]["answer"] == findings.answer
    assert conclude(STUDY, tmp_path / "misalignment") == findings
    packed = (tmp_path / "misalignment" / "pocket" / "rows.jsonl.xz").stat().st_size
    assert packed < (out / "misalignment" / "pocket" / "samples.jsonl").stat().st_size / 4
    with pytest.raises(GroundPruneError, match="no study that was run to its end"):
        keep(tmp_path / "nothing", tmp_path)


def test_outside_of_a_checkout_one_training_is_run(tmp_path, monkeypatch):
    assert list(models_of("pocket")) == ["pocket", "pocket-seed0"]
    monkeypatch.setattr(version, "__file__", str(tmp_path / "site" / "groundprune" / "version.py"))
    assert list(models_of("pocket")) == ["pocket"]
    assert models_of("runs/mine") == {"mine": "runs/mine"}


def test_the_command_says_verdicts_and_where_the_page_is(ran, capsys, monkeypatch):
    monkeypatch.setattr(running, "models_of", lambda model: POCKET)
    words = ["study", "misalignment", "--quick", "--limit", "2", "--out", str(ran[0])]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "page.md" in said.out
    assert "second training is not here" in said.err
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["misalignment"]["answer"] == ran[1].answer
    assert main(["study", "misalignmen"]) == 2
    assert "did you mean 'misalignment'" in capsys.readouterr().err
    assert main(["study", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in [*studies(), "table1"])


def test_a_measured_step_is_stored_and_not_measured_again():
    saved = []
    bench = Bench(None, None, None, True, stored={"old": 1}, save=lambda steps: saved.append(dict(steps)))
    assert bench.step("old", lambda: pytest.fail("it was measured")) == 1
    assert bench.step("new", lambda: 2) == 2
    assert saved == [{"old": 1, "new": 2}]


def effects(*intervals):
    return [Effect("m", 100, (low + high) / 2, low, high) for low, high in intervals]


@pytest.mark.parametrize(
    ("intervals", "gain", "loss", "same"),
    [
        ([(0.02, 0.1), (0.01, 0.2)], HOLDS, FAILS, FAILS),
        ([(0.02, 0.1), (-0.01, 0.2)], UNTOLD, UNTOLD, UNTOLD),
        ([(-0.005, 0.004), (-0.01, 0.01)], FAILS, FAILS, HOLDS),
        ([(-0.2, -0.1), (-0.3, -0.001)], FAILS, HOLDS, FAILS),
        ([(-0.2, -0.1), (0.1, 0.3)], UNTOLD, UNTOLD, UNTOLD),
        ([(0.001, 0.005), (0.002, 0.006)], HOLDS, FAILS, HOLDS),
    ],
)
def test_a_verdict_needs_every_run(intervals, gain, loss, same):
    found = effects(*intervals)
    assert (positive(found), negative(found), no_difference(found)) == (gain, loss, same)
    assert positive([*found, Effect("m", 0, 0, -1, 1)]) == UNTOLD
