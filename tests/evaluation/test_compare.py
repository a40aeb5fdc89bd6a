"""What a comparison does with settings that a model or a method cannot serve, and how it shows many pruners."""

import pytest

import groundprune as gp
from groundprune.evaluation import Setting, compare, read_rows, summarize
from groundprune.report.notes import notes
from groundprune.report.overview import knows, leaders, many, overview, pruners_of, schedule, schedules
from groundprune.report.pruner_charts import pruner_charts
from groundprune.report.tables import grids
from support.charts import drawn

QUICK = {"scenes": 1, "positions": ["preserved"], "progress": False}


def test_what_a_method_cannot_reach_is_named_and_skipped(tmp_path):
    given = {"pruners": ["fastv", "random"], "keeps": [0.5, 0.1], "tokens": [20], "out": tmp_path, **QUICK}
    summary = compare(**given)
    assert summary.complete
    assert set(summary.skipped) == {"fastv/keep=0.1/preserved", "fastv/tokens=20/preserved"}
    assert "keep must be above 0.25" in summary.skipped["fastv/keep=0.1/preserved"]
    assert "tokens=37 or keep=37/144; 20 asked for" in summary.skipped["fastv/tokens=20/preserved"]
    answered = {setting for setting, _ in read_rows(tmp_path / "samples.jsonl")}
    assert answered == {r.setting.id for r in summary.settings} - set(summary.skipped)
    before = (tmp_path / "samples.jsonl").read_bytes()
    assert compare(**given).skipped == summary.skipped
    assert (tmp_path / "samples.jsonl").read_bytes() == before
    said = " ".join(notes([summary]))
    assert "Skipped fastv 0.1: fastv prunes from layer 1 of 4 on" in said
    assert "fastv at 0.5: 48 from layer 1 on" in said


def test_nothing_to_run_is_refused():
    with pytest.raises(gp.Unservable, match=r"keep must be above 0\.25"):
        compare(pruners=["fastv", "v2drop"], keeps=[0.2], **QUICK)


def test_an_error_in_a_pruner_of_ones_own_is_no_skip(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import groundprune as gp\n"
        "class Mine(gp.Pruner):\n"
        "    def score(self, signals, layout, stage):\n"
        "        return signals.projected.norm(dim=-1) * float('nan')\n"
    )
    with pytest.raises(gp.GroundPruneError, match="NaN"):
        compare(pruners=[f"{tmp_path / 'mine.py'}:Mine", "spatial"], keeps=[0.5], **QUICK)


def test_schedules_are_those_that_run():
    assert schedule(gp.FastV(keep=0.5), 4, 144) == [(1, 48)]
    assert schedule(gp.PyramidDrop(keep="15/32"), 32, 576) == [(8, 288), (16, 144), (24, 72)]
    assert schedule(gp.Spatial(keep=0.5), 4, 144) == [(0, 72)]


NAMES = ("random", "spatial", "cls-visual", "text-visual", "fastv", "tome")
RIGHT = {"random": 5, "spatial": 3, "cls-visual": 18, "text-visual": 12, "fastv": 7, "tome": 17}
KEEPS, POLICIES = ("0.5", "0.25"), ("preserved", "official")
SETTINGS = [Setting.of(), *(Setting.of(n, k, positions=p) for n in NAMES for k in KEEPS for p in POLICIES)]


@pytest.fixture(scope="module")
def summary():
    gone = {s.id: "too few" for s in SETTINGS if s.pruner == "fastv" and s.keep == "0.25"}
    rows = [
        {
            "setting": s.id, "sample": f"{kind}{i}", "kind": kind, "type": "color", "answer": "", "iou": 0.5,
            "correct": i < (20 if s.pruner is None else RIGHT[s.pruner]), "box": None,
            "kept": 144 if s.pruner is None else 48,
        }
        for s in SETTINGS if s.id not in gone for kind in ("rec", "vqa") for i in range(20)
    ]  # fmt: skip
    return summarize({"scenes": 20, "seed": 3}, {"skipped": gone, "llm_layers": 4}, SETTINGS, rows, 40)


def test_pruners_that_know_the_same_stand_together_the_best_first(summary):
    assert many(summary)
    assert pruners_of(summary) == ["cls-visual", "tome", "random", "spatial", "text-visual", "fastv"]
    assert [knows(name) for name in NAMES] == [
        "image", "image", "image", "image and text", "inside of the LLM", "image",
    ]  # fmt: skip


def test_what_was_skipped_is_complete_and_empty_in_the_table(summary):
    assert summary.complete
    header, rows = overview(summary, "rec")
    assert header[2:] == ["preserved\n0.5", "preserved\n0.25", "official\n0.5", "official\n0.25"]
    assert rows[0] == ["unpruned", "", *["100.0"] * 4]
    assert rows[1] == ["cls-visual", "image", *["90.0"] * 4]
    assert rows[-1] == ["fastv", "inside of the LLM", "35.0", "", "35.0", ""]
    titles = [grid.title for grid in grids([summary])]
    assert titles == ["REC Acc@0.5 by position policy and keep", "VQA by position policy and keep"]
    assert "Skipped fastv 0.25: too few." in notes([summary])


def test_the_best_is_named_with_those_that_are_not_told_apart(summary):
    assert leaders(summary)[0] == (
        "Best at 0.5, preserved: image cls-visual 90.0 (not told apart: tome); "
        "image and text text-visual 60.0; inside of the LLM fastv 35.0."
    )
    assert "fastv" not in leaders(summary)[1]


def test_schedules_of_skipped_budgets_are_not_told(summary):
    (told,) = schedules(summary)
    assert "of 144 tokens there are left: fastv at 0.5: 48 from layer 1 on." in told


def test_the_figure_has_a_panel_per_policy_and_a_line_per_pruner(summary):
    charts = pruner_charts(summary)
    assert [chart.title for chart in charts] == list(POLICIES)
    lines = {line.get_label(): line.get_xydata() for line in drawn(charts[0]).lines}
    assert set(lines) == {"unpruned", *NAMES}
    assert lines["cls-visual"].tolist() == [[25, 90], [50, 90]]
    assert lines["fastv"].tolist() == [[50, 35]]
    styles = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in drawn(charts[0]).lines]
    assert len(set(styles)) == len(styles)
