"""Referring segmentation: outlines are scored as the field scores them, and `evaluate --task seg` asks for them."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from groundprune.boxes import Box
from groundprune.checkpoints.load import grounding_of, load
from groundprune.cli import main
from groundprune.data import open_data
from groundprune.data.samples import Sample
from groundprune.data.sources import DataSet, as_task
from groundprune.errors import GroundPruneError
from groundprune.evaluation import evaluate
from groundprune.evaluation.results import SAMPLES_FILE, read_summary
from groundprune.evaluation.scoring import Scorer
from groundprune.evaluation.specs import Setting
from groundprune.evaluation.summary import Summary, summarize
from groundprune.families.llava import LLAVA_GROUNDING
from groundprune.report.tables import grids

SIDE = 100
SQUARE = [[20.0, 20.0, 60.0, 20.0, 60.0, 60.0, 20.0, 60.0]]
ANSWERS = {
    "all of it": "[0.20, 0.20, 0.60, 0.20, 0.60, 0.60, 0.20, 0.60]",
    "half of it": "[0.20, 0.20, 0.60, 0.20, 0.60, 0.40, 0.20, 0.40]",
    "a third": "[0.20, 0.20, 0.60, 0.20, 0.60, 0.33, 0.20, 0.33]",
    "elsewhere": "[0.70, 0.70, 0.90, 0.70, 0.90, 0.90]",
    "no outline": "[0.20, 0.20, 0.60, 0.60]",
}


def outlined(id: str = "a", mask=SQUARE) -> Sample:
    picture = Image.new("RGB", (SIDE, SIDE))
    return Sample(id, picture, "seg", "object", "the square", Box(20, 20, 60, 60), None, "val", mask)


def rows() -> list[dict]:
    scorer = Scorer(LLAVA_GROUNDING)
    return [scorer.row(Setting.of(), outlined(id), answer, (SIDE, SIDE), 4) for id, answer in ANSWERS.items()]


def summary() -> Summary:
    return summarize({}, {}, [Setting.of()], rows(), len(ANSWERS))


def test_masks_are_scored_as_pycocotools_scores_them():
    truth = coco.merge(coco.frPyObjects(SQUARE, SIDE, SIDE))
    boths, eithers, ious = [], [], []
    for row, answer in zip(rows(), ANSWERS.values(), strict=True):
        polygon = [100 * value for value in json.loads(answer)]
        runs = coco.frPyObjects([polygon], SIDE, SIDE) if len(polygon) > 4 else []
        said = coco.decode(coco.merge(runs)) if runs else np.zeros((SIDE, SIDE), np.uint8)
        both = int((said & coco.decode(truth)).sum())
        either = int((said | coco.decode(truth)).sum())
        assert row["pixels"] == {"both": both, "either": either, "outlined": bool(runs)}
        expected = coco.iou([coco.merge(runs)], [truth], [0])[0, 0] if runs else 0.0
        assert row["iou"] == round(expected, 4)
        assert row["correct"] == (expected >= 0.5)
        boths.append(both)
        eithers.append(either)
        ious.append(round(expected, 4))
    (result,) = summary().settings
    assert result.seg.mean_iou == pytest.approx(np.mean(ious), abs=1e-6)
    assert result.seg.overall_iou == pytest.approx(sum(boths) / sum(eithers), abs=1e-6)
    assert result.seg.overall_iou != result.seg.mean_iou
    assert result.seg.total.correct == sum(iou >= 0.5 for iou in ious) == 2
    assert result.seg.malformed == 1


def test_a_summary_of_outlines_is_read_back_and_shown():
    written = json.loads(json.dumps(summary().to_json()))
    assert Summary.from_json(written) == summary()
    shown = {grid.title: grid.rows for grid in grids([summary()])}
    (row,) = shown["Masks"]
    assert row[0] == "unpruned"
    assert row[3] == "40.0"


def test_summaries_without_outlines_are_written_as_before():
    vqa = [{**row, "kind": "vqa"} for row in rows()]
    (setting,) = summarize({}, {}, [Setting.of()], vqa, len(vqa)).to_json()["settings"]
    assert "seg" not in setting
    assert "overall_iou" not in setting["rec"]


def test_padding_is_taken_off():
    """The model saw a square; the image is its left... upper half: shares are of the square."""
    wide = Sample("a", Image.new("RGB", (100, 50)), "seg", "object", "the square", None, None, "val", SQUARE)
    answer = "[0.20, 0.45, 0.60, 0.45, 0.60, 0.85, 0.20, 0.85]"  # a band of 25 pixels above the image
    assert Scorer(LLAVA_GROUNDING).score(wide, answer, (100, 50))["iou"] == 1.0
    assert Scorer(LLAVA_GROUNDING).score(wide, ANSWERS["all of it"], (100, 50))["iou"] < 0.5


def test_scenes_carry_the_pixels_of_what_is_asked_for():
    found = as_task(open_data("scenes", scenes=20), "seg")
    assert {sample.kind for sample in found.samples} == {"seg"}
    assert len(found.samples) == 20
    for sample in found.samples:
        rows_of, columns = np.where(sample.mask)
        assert sample.box is not None
        left, top, right, bottom = sample.box
        # The box is of what is covered by two fifths, the mask of what is by half: at most a pixel less a side.
        assert left <= columns.min() <= left + 1
        assert top <= rows_of.min() <= top + 1
        assert right - 1 <= columns.max() + 1 <= right
        assert bottom - 1 <= rows_of.max() + 1 <= bottom


def test_only_expressions_with_masks_are_asked():
    samples = [outlined("a"), Sample("b", Image.new("RGB", (9, 9)), "rec", "x", "it", Box(0, 0, 5, 5), None, "val")]
    rec = Sample("c", samples[0].picture, "rec", "x", "it", Box(0, 0, 5, 5), None, "val", SQUARE)
    assert [s.id for s in as_task(DataSet("d", "val", "", [*samples[1:], rec]), "seg").samples] == ["c"]
    with pytest.raises(GroundPruneError, match="no expression comes with a mask"):
        as_task(DataSet("d", "val", "", samples[1:]), "seg")
    with pytest.raises(GroundPruneError, match="unknown task 'sek'"):
        as_task(DataSet("d", "val", "", samples[1:]), "sek")


def test_a_damaged_mask_leaves_its_sample_out(tmp_path):
    samples = [outlined("good"), outlined("bad", [[1.0, 2.0]]), outlined("empty", np.zeros((SIDE, SIDE), bool))]
    found = evaluate(
        "pocket", DataSet("mine", "val", "", samples), [], [], ["preserved"], out=tmp_path, progress=False
    )
    assert found.settings[0].seg.total.n == 1
    why = " ".join(found.about["unreadable"]["images"])
    assert "at least three points" in why
    assert "holds no pixel" in why


def test_evaluate_asks_for_outlines_and_goes_on(tmp_path, capsys):
    words = ["evaluate", "--task", "seg", "-n", "3", "-p", "random", "--keep", "0.5", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "Masks" in capsys.readouterr().out
    lines = (tmp_path / SAMPLES_FILE).read_text()
    asked = [json.loads(line) for line in lines.splitlines()]
    assert {row["kind"] for row in asked} == {"seg"}
    assert all(row["pixels"]["both"] == 0 for row in asked)  # the pocket answers by boxes
    assert read_summary(tmp_path).settings[0].seg.malformed == 3
    assert main(words) == 0
    assert (tmp_path / SAMPLES_FILE).read_text() == lines
    assert main([*words[:1], *words[3:]]) == 2  # the same folder, for boxes
    assert "another run" in capsys.readouterr().err


def test_the_pocket_is_asked_in_its_own_words():
    assert grounding_of(load("pocket")[0]).seg_prompt
