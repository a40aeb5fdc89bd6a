import json
import shutil

import pytest

from groundprune.app.rendering import samples
from groundprune.app.stored import LIMIT, OUTCOMES, Shelf, StoredRun, choices_of
from groundprune.errors import GroundPruneError
from groundprune.evaluation.results import SAMPLES_FILE, SUMMARY_FILE, read_rows, read_summary


@pytest.fixture(scope="module")
def run(run_folder):
    return StoredRun.read(run_folder)


def test_outcomes_count_what_the_rows_say(run, run_folder):
    rows = read_rows(run_folder / SAMPLES_FILE)
    ids = {sample for _, sample in rows}

    def right(setting, sample):
        return rows[setting, sample]["correct"]

    preserved, reassigned = "cls-visual/keep=0.5/preserved", "cls-visual/keep=0.5/reassigned"
    recovered = {s for s in ids if right(preserved, s) and not right(reassigned, s)}
    lost = {s for s in ids if right("unpruned", s) and not right(preserved, s)}
    assert {i.sample.id for i in run.of("recovered by preserving")} == recovered
    assert {i.sample.id for i in run.of("lost by pruning")} == lost
    assert recovered
    assert run.counts["recovered by preserving"] == len(recovered)
    assert run.counts["all"] == run.answered == len(ids) <= LIMIT
    assert {name: len(run.of(name)) for name in OUTCOMES} == run.counts


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ({"unpruned": True, "preserved": True, "reassigned": False}, {"recovered by preserving"}),
        ({"unpruned": True, "preserved": False, "reassigned": True}, {"lost by pruning", "lost by preserving"}),
        ({"unpruned": False, "preserved": False, "reassigned": False}, {"wrong under all"}),
        ({"unpruned": True, "preserved": True}, {"right under all"}),  # reassigned never ran: nothing is recovered
        ({"unpruned": True}, {"right under all"}),
    ],
)
def test_the_outcomes(right, expected):
    assert {name for name, fits in OUTCOMES.items() if fits(right)} == {"all"} | expected


def test_another_pruner_and_budget(run, run_folder):
    assert list(choices_of(run.summary)) == [
        "cls-visual, keep 0.5", "cls-visual, keep 0.25", "random, keep 0.5", "random, keep 0.25"
    ]  # fmt: skip
    other = StoredRun.read(run_folder, "random, keep 0.25")
    assert other.shown.title == "random, keep 0.25"
    assert {int(item.kept.grid.sum()) for item in other.items} == {36}


def test_markup_in_a_sample_is_text(run):
    item = run.items[0]
    object.__setattr__(item.sample, "text", "<script>alert(1)</script>")
    found = samples([item], "<b>", ["<i>"])
    assert "&lt;script&gt;alert(1)" in found
    assert not any(tag in found for tag in ("<script", "<b>", "<i>"))


class TestShelf:
    def test_below_its_roots_alone(self, run_folder, tmp_path):
        shelf = Shelf(run_folder.parent)
        assert shelf.open("run").folder == run_folder.resolve()
        assert shelf.open(f" {run_folder} ") is shelf.open("run")
        other = tmp_path / "elsewhere"
        shutil.copytree(run_folder, other)
        link = run_folder.parent / "link"
        link.symlink_to(other)
        said = set()
        for wrong in (str(other), "link", "../elsewhere", "nope", "/etc", "run/samples.jsonl", "a\0b", "x" * 5000):
            with pytest.raises(GroundPruneError, match="is no folder of results below") as refused:
                shelf.open(wrong)
            said.add(str(refused.value).replace(repr(wrong), "it"))
        link.unlink()
        assert len(said) == 1  # nobody learns by the message what there is elsewhere
        assert Shelf(run_folder.parent, other).open(str(other)).folder == other

    def test_a_run_that_went_on_is_read_again(self, run_folder, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(run_folder, folder)
        shelf = Shelf(tmp_path)
        first = shelf.open("run")
        summary = json.loads((folder / SUMMARY_FILE).read_text())
        (folder / SUMMARY_FILE).write_text(json.dumps({**summary, "complete": False}))
        assert first.summary.complete
        assert not shelf.open("run").summary.complete

    def test_no_samples(self, run_folder, tmp_path):
        shutil.copy(run_folder / SUMMARY_FILE, tmp_path)
        with pytest.raises(GroundPruneError, match=r"holds no samples\.jsonl"):
            Shelf(tmp_path).open(".")

    def test_samples_that_cannot_be_drawn_again(self, run_folder, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(run_folder, folder)
        summary = json.loads((folder / SUMMARY_FILE).read_text())
        summary["run"]["data"] = "refcoco:val"
        (folder / SUMMARY_FILE).write_text(json.dumps(summary))
        with pytest.raises(GroundPruneError, match="'refcoco:val' cannot be had again"):
            Shelf(tmp_path).open("run")
        assert read_summary(folder).settings
