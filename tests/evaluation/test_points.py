"""Points: right in the box, edges included, as ScreenSpot's own code counts; and `evaluate --task point`."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from groundprune.boxes import Box
from groundprune.checkpoints.load import grounding_of, load
from groundprune.checkpoints.prompts import prompt_for
from groundprune.cli import main
from groundprune.data import open_data
from groundprune.data.samples import Sample
from groundprune.data.sources import DataSet, as_task
from groundprune.errors import GroundPruneError
from groundprune.evaluation import evaluate
from groundprune.evaluation.accounting import Work
from groundprune.evaluation.asking import how_asked
from groundprune.evaluation.lengths import POINT_TOKENS, max_new_tokens
from groundprune.evaluation.results import SAMPLES_FILE, read_summary
from groundprune.evaluation.runner import Answer, Runner
from groundprune.evaluation.scoring import Scorer
from groundprune.evaluation.specs import Setting
from groundprune.evaluation.summary import Summary, summarize
from groundprune.families import families
from groundprune.families.grounding import Grounding
from groundprune.families.llava import LLAVA_GROUNDING
from groundprune.report.tables import grids
from support.checkpoints import save_tiny

THOUSANDTHS = families()["qwen3_vl"].grounding
TYPES = ("mobile text", "mobile icon", "web text", "web icon")
ANSWERS = {
    "a": '{"point_2d": [500, 500]}',
    "b": '{"point_2d": [10, 10]}',
    "c": "I cannot see it.",
    "d": '{"bbox_2d": [400, 400, 600, 600]}',
}


def asked(id="a", box=(480, 270, 1440, 810), type="mobile text", size=(1, 1)):
    """size: of the image, where it is opened."""
    return Sample(id, Image.new("RGB", size), "point", type, "close this window", Box(*box), None, "val")


def rows():
    scorer = Scorer(THOUSANDTHS)
    named = zip(ANSWERS.items(), TYPES, strict=True)
    return [scorer.row(Setting.of(), asked(id, type=t), answer, (1920, 1080), 4) for (id, answer), t in named]


def official(point, bbox, size):
    """What SeeClick's screenspot_test.py and eval_screenspot_pro.py count: shares, edges included."""
    left, right = bbox[0] / size[0], bbox[2] / size[0]
    top, bottom = bbox[1] / size[1], bbox[3] / size[1]
    return (left <= point[0] <= right) and (top <= point[1] <= bottom)


@pytest.mark.parametrize("size", [(1920, 1080), (1179, 2556), (3840, 2160), (301, 97)])
def test_points_on_and_off_edges_count_as_in_the_authors_code(size):
    """Every box edge that lies on a step of the grid, in sizes in which pixels and shares round to other numbers."""
    scorer, right = Scorer(THOUSANDTHS), 0
    for step in range(0, 1001, 7):
        edge = step * size[0] / 1000
        for box in ((edge, 0, size[0], size[1]), (0, 0, edge, size[1])):
            for x in (step - 1, step, step + 1):
                if 0 <= x <= 1000:
                    found = scorer.score(asked(box=box), f'{{"point_2d": [{x}, 500]}}', size)
                    assert found["correct"] == official((x / 1000, 0.5), box, size)
                    right += found["correct"]
    assert right > 300


def test_whole_pixels_of_an_image_that_is_not_resized_are_on_their_edges():
    """x / width * width is not x for many a whole number: shares are compared."""
    size = (1932, 1092)
    limits = {"shortest_edge": 28 * 28, "longest_edge": 16384 * 28 * 28}
    processor = SimpleNamespace(image_processor=SimpleNamespace(merge_size=2, patch_size=14, size=limits))
    scorer = Scorer(families()["qwen2_5_vl"].grounding, processor)
    for x in range(0, size[0] + 1, 13):
        sample = asked(box=(x, 0, size[0], size[1]))
        assert scorer.score(sample, f"({x}, 100)", size)["correct"]
        assert not scorer.score(sample, f"({x - 1}, 100)", size)["correct"]
    # 2000 x 1000 is resized to 1988 x 1008, in whose pixels it answers.
    found = scorer.score(asked(box=(1000, 500, 1001, 501)), "(994, 504)", (2000, 1000))
    assert (found["point"], found["correct"]) == ([1000.0, 500.0], True)


def test_points_are_summed_up_by_type():
    (result,) = summarize({}, {}, [Setting.of()], rows(), len(ANSWERS)).settings
    assert (result.point.total.n, result.point.total.correct, result.point.malformed) == (4, 2, 1)
    assert result.point.mean_iou is None
    assert {type: share.correct for type, share in result.point.types.items()} == {
        "mobile text": 1, "mobile icon": 0, "web text": 0, "web icon": 1,
    }  # fmt: skip
    assert [row["point"] for row in rows()] == [[960.0, 540.0], [19.2, 10.8], None, [960.0, 540.0]]


def test_a_summary_of_points_is_read_back_and_shown():
    summary = summarize({}, {}, [Setting.of()], rows(), len(ANSWERS))
    assert Summary.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    shown = {grid.title: (grid.header, grid.rows) for grid in grids([summary])}
    assert shown["Points"] == (
        ["setting", "all", "text", "icon", "malformed"], [["unpruned", "50.0", "50.0", "50.0", "1"]],
    )  # fmt: skip
    assert [row[1] for row in shown["By type of question"][1]] == sorted(TYPES)


def test_summaries_without_points_are_written_as_before():
    rec = [{**row, "kind": "rec", "iou": 0.0} for row in rows()]
    (setting,) = summarize({}, {}, [Setting.of()], rec, len(rec)).to_json()["settings"]
    assert "point" not in setting
    data = DataSet("d", "val", "", [Sample("a", Image.new("RGB", (9, 9)), "vqa", "x", "?", None, "no", "val")])
    assert not {"point_prompt", "point_codec"} & set(how_asked(LLAVA_GROUNDING, data))
    points = as_task(open_data("scenes", scenes=1), "point")
    assert {"point_prompt", "point_codec"} <= set(how_asked(LLAVA_GROUNDING, points))


def test_a_click_on_the_padding_hits_nothing():
    """A wide image in a square: a box moved into the image would touch its upper border."""
    sample = asked(box=(0, 0, 100, 50))
    grounding = Grounding("{expression}", "{question}", "llava", "padded", point_codec="shares")
    scorer = Scorer(grounding)
    assert scorer.score(sample, "(0.50, 0.26)", (100, 50))["correct"]
    above = scorer.score(sample, "(0.50, 0.20)", (100, 50))
    assert (above["correct"], above["point"]) == (False, [50.0, -5.0])
    assert not Scorer(LLAVA_GROUNDING).score(sample, "[0.40, 0.10, 0.60, 0.20]", (100, 50))["correct"]


def test_only_expressions_are_asked_and_all_of_them():
    scenes = open_data("scenes", scenes=5)
    found = as_task(scenes, "point")
    assert [s.id for s in found.samples] == [s.id for s in scenes.samples if s.kind == "rec"]
    assert {s.kind for s in found.samples} == {"point"}
    questions = DataSet("d", "val", "", [s for s in scenes.samples if s.kind == "vqa"])
    with pytest.raises(GroundPruneError, match="no expression comes with a box"):
        as_task(questions, "point")


def test_a_family_that_says_points_is_asked_for_one(tmp_path):
    _, processor = load(save_tiny("qwen2_5_vl", tmp_path))
    grounding = families()["qwen2_5_vl"].grounding
    said = prompt_for(processor, grounding, "point", "close this window")
    assert '"close this window"' in said
    assert '{"point_2d": [x, y]}' in said
    assert max_new_tokens(processor, grounding, "native", "point", ["x"], [(56, 56)]) == POINT_TOKENS
    asked_for_a_box = Grounding("Box of {expression}", "{question}", "llava", "original")
    assert "Box of it" in prompt_for(processor, asked_for_a_box, "point", "it")
    lengths = [
        max_new_tokens(processor, asked_for_a_box, "native", kind, ["x"], [(9, 9)]) for kind in ("point", "rec")
    ]
    assert lengths[0] == lengths[1] < POINT_TOKENS


def test_a_box_that_cannot_be_leaves_its_sample_out(tmp_path):
    samples = [asked("good", size=(144, 144), box=(1, 1, 9, 9)), asked("bad", size=(144, 144), box=(500, 0, 600, 9))]
    data = DataSet("mine", "val", "", samples)
    found = evaluate("pocket", data, [], [], ["preserved"], out=tmp_path, progress=False)
    assert found.settings[0].point.total.n == 1
    assert "lies outside of its image" in found.about["unreadable"]["images"][0]


def test_evaluate_asks_for_points_and_goes_on(tmp_path, capsys):
    words = ["evaluate", "--task", "point", "-n", "4", "-p", "random", "--keep", "0.5", "--positions", "preserved"]
    words += ["--out", str(tmp_path)]
    assert main(words) == 0
    assert "Points" in capsys.readouterr().out
    lines = (tmp_path / SAMPLES_FILE).read_text()
    unpruned = [row for row in map(json.loads, lines.splitlines()) if row["setting"] == "unpruned"]
    boxes = {s.id: s.box for s in open_data("scenes", scenes=4).samples if s.box is not None}
    for row in unpruned:  # the pocket says boxes: their centres count
        edges = json.loads(row["answer"])
        assert row["point"] == pytest.approx([72 * (edges[0] + edges[2]), 72 * (edges[1] + edges[3])], abs=0.01)
        assert row["correct"] == boxes[row["sample"]].holds(row["point"])
    assert sum(row["correct"] for row in unpruned) >= 3
    assert main(words) == 0
    assert (tmp_path / SAMPLES_FILE).read_text() == lines
    assert read_summary(tmp_path).run["task"] == "point"
    capsys.readouterr()
    assert main([*words[:1], *words[3:]]) == 2  # the same folder, for boxes
    assert "another run" in capsys.readouterr().err


def test_the_other_protocol_has_no_points(capsys):
    assert main(["evaluate", "--task", "point", "--protocol", "paper", "-n", "1"]) == 2
    assert "says nothing of points" in capsys.readouterr().err


PAGE = {
    "corner": (0, 0, 40, 30), "button": (60, 100, 220, 140), "field": (60, 160, 300, 190), "icon": (280, 10, 310, 40),
}  # fmt: skip


@pytest.fixture
def page(tmp_path):
    """A drawn page of 320 x 420 pixels, its elements in data/lines.py's layout."""
    Image.new("RGB", (320, 420), "white").save(tmp_path / "page.png")
    lines = [
        {"image": "page.png", "expression": f"the {name}", "bbox": box, "type": "icon" if name == "icon" else "text"}
        for name, box in PAGE.items()
    ]
    path = tmp_path / "annotations.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def said(box):
    """A box in the pocket's language: shares of the square around a page of 320 x 420, which is padded by 50."""
    x1, y1, x2, y2 = box
    return f"[{(x1 + 50) / 420:.5f}, {y1 / 420:.5f}, {(x2 + 50) / 420:.5f}, {y2 / 420:.5f}]"


@pytest.mark.parametrize(
    ("answer", "rate"),
    [
        (lambda sample: said(sample.box), 1.0),
        (lambda sample: said((0, 0, 2, 2)), sum(b[0] <= 1 <= b[2] and b[1] <= 1 <= b[3] for b in PAGE.values()) / 4),
        (lambda sample: "nowhere", 0.0),
    ],
)
def test_what_stubs_answer_is_counted(page, monkeypatch, answer, rate):
    """One answers every centre, one the corner of the image, one nothing."""
    work = Work([(0, 9, 9)], 1, None)
    monkeypatch.setattr(
        Runner, "_answers", lambda self, _, batch: [Answer(answer(self.samples[i]), 1, None, work) for i in batch]
    )
    found = evaluate("pocket", str(page), [], [], ["preserved"], progress=False, task="point")
    task = found.settings[0].point
    assert task.total.n == len(PAGE)
    assert task.total.accuracy == rate
    assert task.malformed == (0 if rate else len(PAGE))
    assert set(task.types) == {"text", "icon"}
    assert grounding_of(load("pocket")[0]).point_codec is None
