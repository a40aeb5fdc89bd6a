"""What stands first in a report, for every kind of run: a sentence that is true of it, its numbers, three samples."""

import pytest

from groundprune.data import open_data
from groundprune.data.sources import as_task
from groundprune.evaluation import Setting, compare, evaluate, read_rows, read_summary, summarize
from groundprune.report.headline import choose_shown
from groundprune.report.page import Gallery, render_report, write_report
from groundprune.report.story import fall, sentences, tell
from support.pages import Page

STOCK, HALF = Setting.of(), Setting.of("spatial", 0.5)
ALIKE = Setting.of("spatial", 0.5, positions="reassigned")


def run_of(right, kinds=("rec",), settings=(STOCK, HALF, ALIKE), n=10):
    """A summary in which each setting has so many of n answers right, by its positions."""
    rows = [
        {
            "setting": s.id, "sample": f"{kind}{i}", "kind": kind, "type": "color", "answer": "?", "box": None,
            "correct": i < right["unpruned" if s.pruner is None else s.positions], "kept": 72 if s.pruner else 144,
            "iou": None if kind in ("vqa", "point") else 0.5, "point": None,
            "pixels": {"both": 1, "either": 2, "outlined": True},
        }
        for s in settings for kind in kinds for i in range(n)
    ]  # fmt: skip
    return summarize({"model": "pocket", "data": "scenes", "split": "held-out", "scenes": n, "seed": 0}, {}, settings,
                     rows, n * len(kinds))  # fmt: skip


def story_of(*given, **more):
    summary = run_of(*given, **more)
    return tell(summary, choose_shown(summary))


class TestSentences:
    def test_a_fall_and_what_is_recovered(self):
        story = story_of({"unpruned": 10, "reassigned": 1, "preserved": 8}, ("rec", "vqa"))
        assert story.sentences == [
            "With 50% of the visual tokens kept, accuracy of boxes (REC Acc@0.5) falls from 100.0% to 10.0% if they "
            "are renumbered, but only to 80.0% if they keep their position ids.",
            "Accuracy of short answers (VQA exact match): 100.0% unpruned, 10.0% reassigned, 80.0% preserved.",
        ]
        assert [(line.name, line.falls["rec"]) for line in story.lines] == [
            ("unpruned", ""), ("reassigned", "\N{MINUS SIGN}90.0"), ("preserved", "\N{MINUS SIGN}20.0"),
        ]  # fmt: skip
        assert list(story.curves) == ["rec", "vqa"]
        assert dict(story.facts) == {
            "model": "pocket", "data": "drawn scenes held-out", "samples": "10 expressions and as many questions",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("of", "says"),
        [
            ((10, 5, 5), "falls from 100.0% to 50.0% if they are renumbered, and to 50.0% if they keep"),
            ((10, 5, 3), "falls from 100.0% to 50.0% if they are renumbered, and to 30.0% if they keep"),
            ((5, 5, 7), "stays at 50.0% if they are renumbered, and rises from 50.0% to 70.0% if they keep"),
            ((5, 7, 5), "rises from 50.0% to 70.0% if they are renumbered, and stays at 50.0% if they keep"),
        ],
    )
    def test_it_never_claims_what_is_not_so(self, of, says):
        (said,) = story_of(dict(zip(("unpruned", "reassigned", "preserved"), of, strict=True))).sentences
        assert says in said

    def test_one_policy_alone(self):
        right = {"unpruned": 10, "reassigned": 1, "preserved": 8}
        (said,) = story_of(right, settings=(STOCK, HALF)).sentences
        assert said.endswith("falls from 100.0% to 80.0% if they keep their position ids.")
        assert "renumbered" not in said
        (said,) = story_of(right, settings=(STOCK, ALIKE)).sentences
        assert said.endswith("falls from 100.0% to 10.0% if they are renumbered.")
        assert "keep their" not in said

    def test_counts_other_kinds_and_nothing(self):
        few = Setting.of("spatial", tokens=16)
        right = {"unpruned": 10, "preserved": 8}
        (said,) = story_of(right, ("seg",), settings=(STOCK, few)).sentences
        assert said.startswith(
            "With 16 visual tokens kept, accuracy of outlines (SEG Pr@0.5) falls from 100.0% to 80.0%"
        )
        (said,) = story_of(right, ("point",), settings=(STOCK,)).sentences
        assert said == "With nothing pruned, accuracy of points (point in box) is 100.0%."
        (said,) = story_of(right, ("vqa",), settings=(STOCK, HALF)).sentences
        assert said.startswith(
            "With 50% of the visual tokens kept, accuracy of short answers (VQA exact match) falls"
        )
        assert sentences({"rec": {}}, "spatial", "0.5") == ["There are no answers yet."]

    def test_a_fall_is_known_beside_the_unpruned_alone(self):
        assert fall({"unpruned": 0.5, "preserved": 0.75}, "preserved") == "+25.0"
        assert fall({"unpruned": 0.5, "preserved": 0.4999999}, "preserved") == "0"
        assert fall({"preserved": 0.75}, "preserved") == fall({"unpruned": 1.0}, "unpruned") == ""


@pytest.mark.parametrize("kinds", [("rec", "vqa"), ("vqa",), ("seg",), ("point",)])
@pytest.mark.parametrize("settings", [(STOCK,), (STOCK, HALF), (STOCK, ALIKE), (STOCK, HALF, ALIKE), (HALF, ALIKE)])
def test_any_run_has_a_first_screen(kinds, settings):
    """Before everything else: the sentence, the facts and each setting's numbers; without its samples too."""
    summary = run_of({"unpruned": 9, "reassigned": 2, "preserved": 6}, kinds, settings)
    shown = choose_shown(summary)
    page = Page(render_report(summary, shown, Gallery(missing=["No samples are shown: why."])))
    (title,) = [text for tag, text in page.text if tag == "h1"]
    assert title == tell(summary, shown).sentences[0]
    said = page.said()
    first = said[: said.index("Tables")]
    assert all(fact in first for fact in ("pocket", "drawn scenes held-out"))
    numbers = {STOCK: "90.0", HALF: "60.0", ALIKE: "20.0"}
    assert all(numbers[setting] in first.splitlines() for setting in settings)
    assert "No samples are shown: why." in first
    drawn = [figure for figure in page.all("svg") if "first-" in figure.get("aria-labelledby", "")]
    assert len(drawn) == (len(kinds) if len(settings) > 1 else 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("story")
    compare(out=out / "rec", scenes=4, pruners=["spatial"], keeps=[0.5], progress=False)
    for task in ("point", "seg"):
        data = as_task(open_data("scenes", limit=4), task)
        evaluate(data=data, out=out / task, pruners=["spatial"], keeps=[0.5], progress=False)
    return out


class TestSamples:
    @pytest.mark.parametrize("task", ["rec", "point", "seg"])
    def test_the_same_image_stands_there_once_per_setting(self, folder, task):
        page = Page(write_report(folder / task).read_text(encoding="utf-8"))
        pictures = [picture["src"] for picture in page.all("img")[:9]]
        assert pictures == [src for src in pictures[::3] for _ in range(3)]
        assert len(set(pictures)) == 3
        names = [picture["alt"].partition(":")[0] for picture in page.all("img")[:9]]
        assert names == ["unpruned", "reassigned", "preserved"] * 3

    def test_points_are_drawn_where_they_were_said(self, folder):
        page = Page(write_report(folder / "point").read_text(encoding="utf-8"))
        shown = {s.id for s in (STOCK, HALF, ALIKE)}
        rows = read_rows(folder / "point" / "samples.jsonl").values()
        said = {tuple(row["point"]) for row in rows if row["setting"] in shown and row["point"]}
        assert len(said) > 3
        assert {(float(mark["cx"]), float(mark["cy"])) for mark in page.all("circle")} == said

    def test_the_numbers_are_the_summarys(self, folder):
        summary = read_summary(folder / "rec")
        lines = tell(summary, choose_shown(summary)).lines
        for line, setting in zip(lines, (STOCK, ALIKE, HALF), strict=True):
            result = summary.result(setting.id)
            assert (line.shares["rec"], line.shares["vqa"]) == (result.rec.total, result.vqa.total)
