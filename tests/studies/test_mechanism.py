"""Which ids move, and what the study says of boxes that moved by what is known."""

import numpy as np
import pytest
import torch
from PIL import Image

from groundprune.boxes import Box
from groundprune.checkpoints.load import load
from groundprune.data import open_data
from groundprune.data.samples import Sample
from groundprune.errors import GroundPruneError, Unservable
from groundprune.evaluation.interventions import Truths
from groundprune.pruners.spatial import Spatial
from groundprune.studies.mechanism import Mechanism
from groundprune.studies.parts.following import CELLS, half_lost, mean, measure_cells
from groundprune.studies.parts.mechanism_moves import COUNTS, STEPS, UNPRUNED, WAYS, astray, curve, movement, shift
from groundprune.studies.parts.moving import AXES, PARTS, moved, wrong
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Bench
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.positions import Row, parse_policy
from support.study_rows import made_rows, made_run

SIDE, BEFORE, AFTER = 6, 3, 4
TOKENS, LENGTH = SIDE * SIDE, BEFORE + SIDE * SIDE + AFTER
CELL = torch.arange(TOKENS)
TARGET = [7, 8, 13, 14]  # rows 1 and 2, columns 1 and 2


def row(mrope=False, kept=None):
    """A prompt of 3 words, 6 x 6 patches and 4 words; with M-RoPE ids are (time, height, width)."""
    position = torch.arange(LENGTH)[None]
    if mrope:
        image = torch.stack([torch.zeros_like(CELL), CELL // SIDE, CELL % SIDE]) + BEFORE
        before, after = torch.arange(BEFORE).expand(3, -1), (torch.arange(AFTER) + BEFORE + SIDE).expand(3, -1)
        position = torch.cat([before, image, after], dim=1)
    column, zero, every = CELL + BEFORE, torch.zeros_like(CELL), torch.ones(TOKENS, dtype=torch.bool)
    layout = VisualLayout(
        column, zero, zero, CELL // SIDE, CELL % SIDE, every, zero, every, position[:, column], LENGTH, (0,)
    )
    kept = CELL if kept is None else kept
    ends = torch.arange(BEFORE), torch.arange(BEFORE + TOKENS, LENGTH)
    return Row(position, torch.cat([ends[0], column[kept], ends[1]]), layout, kept)


def truths():
    box = Box(12, 12, 36, 36)
    sample = Sample("one", Image.new("RGB", (72, 72)), "rec", "any", "it", box, None, "made")
    return Truths([sample], [(72, 72)], "original")


def change(intervention, of):
    """By how much every id moved, Long[A, S], and those of generated tokens."""
    pruner, policy = intervention(Spatial(keep=1), parse_policy("preserved"), truths())
    ids, later = policy(of)
    assert pruner == Spatial(keep=1)
    return ids - of.original, later


IMAGE = [BEFORE + i for i in range(TOKENS)]
MOVED = {
    "target": [BEFORE + i for i in TARGET],
    "rest": [BEFORE + i for i in range(TOKENS) if i not in TARGET],
    "first row": IMAGE[:SIDE],
    "last row": IMAGE[-SIDE:],
    "grid": IMAGE,
    "text": list(range(BEFORE + TOKENS, LENGTH)),
    "all": list(range(BEFORE, LENGTH)),
}


@pytest.mark.parametrize("part", MOVED)
@pytest.mark.parametrize("by", [-1, 1, 2])
def test_exactly_the_part_moves_by_exactly_its_cells(part, by):
    for axis, step in (("row", SIDE), ("column", 1)):
        found, later = change(moved(part, axis, by), row())
        expected = torch.zeros(1, LENGTH, dtype=torch.long)
        expected[:, MOVED[part]] = by * step
        expected = torch.maximum(expected, -row().original)  # none below 0
        assert torch.equal(found, expected)
        assert later == (by * step if part in ("text", "all") else 0)


def test_with_three_axes_rows_are_heights_and_columns_widths():
    for axis, index in (("row", 1), ("column", 2)):
        found, _ = change(moved("target", axis, 2), row(mrope=True))
        expected = torch.zeros(3, LENGTH, dtype=torch.long)
        expected[index, MOVED["target"]] = 2
        assert torch.equal(found, expected)
        found, later = change(moved("all", axis, 2), row(mrope=True))
        assert later == 2
        assert torch.equal(found[:, BEFORE:], torch.full((3, LENGTH - BEFORE), 2))


@pytest.mark.parametrize(
    ("part", "among"), [("one of the target", MOVED["target"]), ("one of the rest", MOVED["rest"])]
)
def test_one_token_moves_alone_and_is_of_its_part(part, among):
    found, _ = change(moved(part, "row", 1), row())
    assert found.nonzero()[:, 1].tolist()[0] in among
    assert found.unique().tolist() == [0, SIDE]
    assert int((found != 0).sum()) == 1


def test_of_a_pruned_row_the_kept_tokens_move():
    kept = torch.tensor([0, 8, 14, 30])
    found, _ = change(moved("target", "row", 1), row(kept=kept))
    assert found[0].nonzero().flatten().tolist() == [BEFORE + 1, BEFORE + 2]


def test_a_common_shift_is_that_of_the_policy():
    ours = moved("all", "row", 1)(Spatial(keep=1), parse_policy("preserved"), truths())[1](row())
    theirs = parse_policy(f"shifted:{SIDE}")(row())
    assert torch.equal(ours[0], theirs[0])
    assert ours[1] == theirs[1]


def test_parts_and_axes_that_are_none():
    with pytest.raises(GroundPruneError, match="targte"):
        moved("targte", "row", 1)
    with pytest.raises(GroundPruneError, match="depth"):
        moved("target", "depth", 1)


@pytest.mark.parametrize("how", WAYS)
def test_so_many_ids_are_wrong_and_all_are_ids_of_the_image(how):
    before = set()
    for count in (1, 2, 8, 36, None):
        found, later = change(wrong(how, count), row())
        astray_now = set(found[0].nonzero().flatten().tolist())
        assert len(astray_now) == (TOKENS if count is None else 0 if (how, count) == ("permuted", 1) else count)
        assert before <= astray_now <= set(IMAGE)
        ids = (row().original + found)[0, IMAGE]
        assert set(ids.tolist()) <= set(IMAGE)
        assert how == "displaced" or len(set(ids.tolist())) == TOKENS
        assert later == 0
        before = astray_now


def test_several_grids_and_single_lines_are_refused():
    layout = row().layout
    line = layout.subset(CELL[:SIDE])
    with pytest.raises(Unservable, match="second row"):
        change(moved("grid", "row", 1), Row(row().position, line.column, line, CELL[:SIDE]))


def test_cells_are_measured_in_pixels_of_the_image():
    data = open_data("scenes", scenes=2, seed=3)
    bench = Bench(*load("pocket"), data, quick=True)
    measure_cells(bench)
    found = bench.steps[CELLS]
    assert list(found) == [sample.id for sample in data.samples if sample.kind == "rec"]
    for sample in data.samples[:2]:
        assert found[sample.id] == {"grid": [12, 12], "cell": [12.0, 12.0], "box": list(sample.box or ())}


BOX = [48.0, 48.0, 72.0, 72.0]
SAMPLES = 60


def box_rows(setting, right, down=0.0, across=0.0, noise=0.0):
    """Boxes that moved by so many cells of 12 x 8 pixels."""
    rng = np.random.default_rng(len(setting.id))
    rows = made_rows(setting, "rec", right)
    for made in rows:
        x, y = (12 * (across + noise * rng.normal()), 8 * (down + noise * rng.normal()))
        made["box"] = [BOX[0] + x, BOX[1] + y, BOX[2] + x, BOX[3] + y]
    return rows


def planted(follows, wrong_from=16, model="made"):
    """follows: cells that the box goes per cell of a part's ids. Answers are right below so many wrong ids."""
    good, bad = [True] * SAMPLES, [False] * SAMPLES
    rows = box_rows(UNPRUNED, good)
    for part in PARTS:
        for axis in AXES:
            for by in STEPS if part == "target" else (1,):
                went = by * follows.get(part, 0.0)
                down, across = (went, 0.0) if axis == "row" else (0.0, went)
                rows += box_rows(shift(part, axis, by), bad, down, across, noise=0.05)
    for how in WAYS:
        for count in (*COUNTS, None):
            rows += box_rows(astray(how, count), good if count and count < wrong_from else bad)
    cells = {f"rec-{i:04d}": {"grid": [18, 12], "cell": [12.0, 8.0], "box": BOX} for i in range(SAMPLES)}
    return made_run(rows, model, **{CELLS: cells})


def verdicts(*runs):
    return {claim.text.split(":")[0]: claim.verdict for claim in Mechanism().findings(runs).claims}


def test_planted_movements_are_found():
    run = planted({"target": 1.0, "grid": 1.0, "text": -1.0, "all": 0.0})
    for axis in AXES:
        assert movement(run, "target", axis, 2).value == pytest.approx(2, abs=0.05)
    found = list(verdicts(run, run).values())
    assert found == [HOLDS, HOLDS, HOLDS, FAILS, HOLDS, HOLDS, HOLDS, HOLDS, HOLDS, HOLDS]
    other = planted(
        {"target": 0.0, "rest": -1.0, "all": 1.0, "first row": 1.0, "one of the target": 1.0}, wrong_from=128
    )
    found = list(verdicts(other, other).values())
    assert found == [FAILS, FAILS, FAILS, HOLDS, FAILS, FAILS, FAILS, FAILS, HOLDS, FAILS]


def test_half_a_cell_is_no_slope_of_one_and_two_runs_must_agree():
    half, whole = planted({"target": 0.5}), planted({"target": 1.0})
    slope = "a cell of the target's ids is a cell of the box (slope 1 over all shifts)"
    assert verdicts(half, half)[slope] == FAILS
    assert verdicts(half, whole)[slope] == UNTOLD
    assert verdicts(half, whole)["the box goes where the ids of the target's tokens go"] == HOLDS


def test_boxes_that_would_leave_the_image_are_not_counted():
    run = planted({"target": 1.0})
    about = run.measured[CELLS]
    about["rec-0000"]["box"] = [48.0, 130.0, 72.0, 142.0]  # 17.75 of 18 rows
    assert movement(run, "target", "row", 1).n == SAMPLES - 1
    assert movement(run, "target", "row", -1).n == SAMPLES


def test_half_is_lost_where_it_was_planted():
    run = planted({}, wrong_from=16)
    found = half_lost(run, UNPRUNED, curve(run, "displaced"))
    assert 8 < found.value < 16  # all right at 8, all wrong at 16
    assert found.value == pytest.approx(8 * 2**0.5)
    assert found.low == found.high == pytest.approx(found.value)
    never = planted({}, wrong_from=500)
    rows = [dict(made) | {"correct": True} for made in never.rows]
    assert half_lost(made_run(rows), UNPRUNED, curve(never, "displaced")).value == float("inf")


def test_the_interval_of_a_mean_holds_it():
    found = mean("made", [0.0, 1.0] * 50)
    assert found.low < found.value == 0.5 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.05, rel=0.15)


def test_what_was_not_run_cannot_be_told():
    empty = made_run([])
    assert {claim.verdict for claim in Mechanism().findings([empty]).claims} == {UNTOLD}
    bare = made_run([dict(made) for made in planted({"target": 1.0}).rows])  # no cells were measured
    assert set(verdicts(bare).values()) <= {UNTOLD, HOLDS}
    for runs in ([empty], [bare], [planted({"target": 1.0})]):
        Mechanism().draw(runs)
        Mechanism().findings(runs)


def test_the_map_is_drawn_where_the_boxes_went():
    figure = Mechanism().draw([planted({"target": 0.5})])
    lines = [np.asarray(line.get_ydata(), float) for line in figure.axes[0].get_lines()]
    assert any(len(y) == 6 and np.allclose(y, [-1.5, -1, -0.5, 0.5, 1, 1.5], atol=0.05) for y in lines)
