"""Figures for print, and the commands that write a report."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib.figure import Figure
from PIL import Image

from groundprune.cli import main
from groundprune.evaluation import Setting, summarize
from groundprune.report.charts import curves, headline, policies
from groundprune.report.figures import inline_svg, write_figures
from groundprune.report.headline import choose_shown
from groundprune.report.heatmaps import heatmaps
from groundprune.report.style import GROUND_TRUTH, PRESERVED, REASSIGNED, UNPRUNED, look_of
from support.charts import drawn

PRUNERS, KEEPS, POLICIES = ("spatial", "random"), ("0.5", "0.25"), ("preserved", "reassigned", "stretched")
SETTINGS = [Setting.of(), *(Setting.of(p, k, positions=q) for p in PRUNERS for k in KEEPS for q in POLICIES)]
KEPT = {None: 144, "0.5": 72, "0.25": 36}


def rows(right=lambda setting, i: i % 3 > 0):
    return [
        {
            "setting": s.id, "sample": f"{kind}{i}", "kind": kind, "type": "color", "answer": "", "iou": 0.5,
            "correct": right(s, i), "box": None, "kept": KEPT[s.keep],
        }
        for s in SETTINGS for kind in ("rec", "vqa") for i in range(10)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def summary():
    # 80% preserved, 10% reassigned, 50% else; all of the unpruned model's answers are right
    share = {"preserved": 8, "reassigned": 1, "stretched": 5}
    return summarize({}, {}, SETTINGS, rows(lambda s, i: s.pruner is None or i < share[s.positions]), 20)


class TestCharts:
    def test_bars_are_the_accuracies(self, summary):
        ax = drawn(headline(choose_shown(summary)))
        heights = [bar.get_height() for bars in ax.containers for bar in getattr(bars, "patches", [])]
        assert heights == pytest.approx([100, 80, 10] * 2)
        assert [text.get_text() for text in ax.texts] == ["100.0", "80.0", "10.0"] * 2

    def test_curves_stand_at_the_measured_share(self, summary):
        (first, second), (_, _) = curves(summary).values()
        assert (first.title, second.title) == PRUNERS
        ax = drawn(first)
        found = {c.get_label(): c.lines[0].get_xydata() for c in ax.containers}
        assert set(found) == set(POLICIES)
        assert found["preserved"][:, 1] == pytest.approx([80, 80])
        assert found["reassigned"][:, 1] == pytest.approx([10, 10])
        assert found["reassigned"][:, 0] == pytest.approx([25, 50])  # the middle one of three, not set aside
        assert "reassigned 10.0% (1.8 to 40.4) at 25% of the tokens, 10.0%" in first.description

    def test_cells_of_the_heat_maps(self, summary):
        level, gain = heatmaps(summary)
        assert [text.get_text() for text in drawn(level).texts] == ["80.0"] * 4
        assert [text.get_text() for text in drawn(gain).texts] == ["+70.0"] * 4

    def test_a_cell_without_a_value_says_so(self, summary):
        some = [s for s in SETTINGS if s.id != "random/keep=0.25/preserved"]
        partial = summarize({}, {}, some, rows(), 20)
        assert [text.get_text() for text in drawn(heatmaps(partial)[0]).texts][-1] == "n/a"

    def test_nothing_pruned(self):
        whole = [Setting.of(), Setting.of(positions="shifted:8")]
        summary = summarize({}, {}, whole, [r for r in rows() if r["setting"] == "unpruned"], 20)
        assert curves(summary) == {}
        assert heatmaps(summary) == []
        assert choose_shown(summary).title == "nothing pruned"
        assert [text.get_text() for text in drawn(headline(choose_shown(summary))).texts] == ["60.0"] * 2

    def test_no_two_policies_look_alike(self, summary):
        looks = list(policies(summary).values())
        assert len({look.colour for look in looks}) == len({look.marker for look in looks}) == len(looks) == 4
        assert len({GROUND_TRUTH, UNPRUNED, PRESERVED, REASSIGNED}) == 4
        assert look_of("preserved").line != look_of("reassigned").line


@pytest.fixture(scope="module")
def folder(summary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "new"
    write_figures(summary, choose_shown(summary), folder)
    return folder


class TestFiles:
    def test_print_quality(self, folder):
        assert {path.name for path in folder.iterdir()} == {
            f"{name}.{kind}" for name in ("headline", "curves", "heatmaps") for kind in ("png", "svg")
        }
        for path in folder.glob("*.png"):
            with Image.open(path) as picture:
                assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
                assert picture.width >= 1200

    def test_drawings_need_no_font(self, folder):
        for path in folder.glob("*.svg"):
            root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
            assert not root.findall(".//{http://www.w3.org/2000/svg}text")
            assert not root.findall(".//{http://www.w3.org/2000/svg}image")

    def test_the_legend_covers_no_data(self, summary, tmp_path, monkeypatch):
        boxes = []
        save = Figure.savefig

        def measured(figure, *given, **options):
            save(figure, *given, **options)
            axes = [ax.get_window_extent() for ax in figure.axes]
            boxes.extend((legend.get_window_extent(), axes) for legend in figure.legends)

        monkeypatch.setattr(Figure, "savefig", measured)
        write_figures(summary, choose_shown(summary), tmp_path)
        assert boxes
        assert not any(legend.overlaps(ax) for legend, axes in boxes for ax in axes)


def test_inline_drawings_share_no_ids_and_follow_the_theme(summary):
    charts = [
        headline(choose_shown(summary)),
        *heatmaps(summary),
        *(c for row in curves(summary).values() for c in row),
    ]
    drawings = [inline_svg(chart) for chart in charts]
    ids = [id for drawing in drawings for id in set(re.findall(r'\bid="([^"]+)"', drawing))]
    assert len(ids) == len(set(ids))
    for drawing in drawings:
        ElementTree.fromstring(drawing.replace("<svg", '<svg xmlns:xlink="x"', 1))
        assert "currentColor" in drawing
        assert "#01020" not in drawing
        assert "<text" in drawing


class TestCommands:
    @pytest.fixture
    def said(self, capsys):
        def run(*arguments):
            code = main([str(argument) for argument in arguments])
            return code, *capsys.readouterr()

        return run

    def test_compare_writes_it_and_report_makes_it_anew(self, said, tmp_path):
        out = tmp_path / "run"
        run = "compare", "--scenes", 2, "--pruner", "spatial", "--keep", "0.5,0.25", "--positions", "preserved"
        code, printed, _ = said(*run, "--out", out)
        assert code == 0
        assert printed.endswith(f"results  {out}\nreport   {out / 'report.html'}\n")
        first = (out / "report.html").read_bytes()
        (out / "report.html").unlink()
        assert said("report", out)[:2] == (0, f"report   {out / 'report.html'}\n")
        assert (out / "report.html").read_bytes() == first
        assert said("report", out, "--keep", "1/4", "--samples", "1")[0] == 0
        page = (out / "report.html").read_text(encoding="utf-8")
        assert "At a glance: spatial, keep 0.25" in page
        assert page.count("<img ") == 1 + 2  # and the same in front, unpruned and preserved

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ([], "no result summary at"),
            (["--keep", "0.5", "--tokens", "3"], "either --keep or --tokens"),
            (["--samples", "-1"], "--samples"),
            (["--keep", "1.5"], "keep"),
        ],
    )
    def test_without_results(self, said, tmp_path, options, says):
        code, out, err = said("report", tmp_path, *options)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert says in err

    def test_what_the_run_does_not_hold(self, said, tmp_path):
        said("compare", "--scenes", 1, "--pruner", "spatial", "--keep", "0.5", "--out", tmp_path)
        for options in (["--pruner", "random"], ["--keep", "0.3"], ["--tokens", "9"]):
            code, _, err = said("report", tmp_path, *options)
            assert (code, err.count("\n")) == (2, 1)
            assert "(it holds: spatial 0.5)" in err
