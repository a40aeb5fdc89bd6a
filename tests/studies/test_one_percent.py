"""Ids that move without a drop, by hand and on a model; and what the study says of rows whose truth is known."""

import numpy as np
import pytest
import torch

from groundprune.errors import Unservable
from groundprune.evaluation.interventions import Truths
from groundprune.pruners import FastV, Random
from groundprune.pruning.inputs import prune_inputs
from groundprune.studies.one_percent import KEEPS, PRUNERS, UNPRUNED, WAYS, OnePercent, arm
from groundprune.studies.parts.renumbering import Renumbered, renumbered
from groundprune.studies.study import FAILS, HOLDS, UNTOLD
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.positions import PLAIN, Row
from support.families import inputs_of, model_of
from support.study_rows import made_rows, made_run

NOBODY = Truths([], [], "whole")


def whole_row():
    """Text a b, an image of four tokens, text c d."""
    column, position = torch.tensor([2, 3, 4, 5]), torch.arange(8)[None]
    zero, every = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.bool)
    layout = VisualLayout(
        column, zero, zero, zero, torch.arange(4), every, zero, every, position[:, column], 8, unit=(0,)
    )
    return Row(position, torch.arange(8), layout, torch.arange(4))


@pytest.mark.parametrize(
    ("stays", "expected", "moved"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7], 0),
        ([1, 3], [0, 1, 2, 2, 3, 3, 4, 5], -2),  # a, b, (1), 1, (3), 3, c, d
        ([0, 1], [0, 1, 2, 3, 4, 4, 4, 5], -2),  # what would have gone last shares the id of the text
        ([2, 3], [0, 1, 2, 2, 2, 3, 4, 5], -2),  # the paper's: after dropping v1, v2 the others get p1, p2
    ],
)
def test_renumbered_ids_by_hand(stays, expected, moved):
    found, shift = Renumbered(PLAIN["reassigned"], {0: torch.tensor(stays)})(whole_row())
    assert (found[0].tolist(), shift) == (expected, moved)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_a_model_reads_every_token_under_the_ids_of_those_that_would_have_stayed(name):
    model, inputs = model_of(name), inputs_of(name)
    pruner = Random(keep=0.5)
    short = prune_inputs(model, inputs, pruner, "reassigned")
    foregone = prune_inputs(model, inputs, *renumbered(pruner, PLAIN["reassigned"], NOBODY))
    assert foregone["input_ids"].equal(inputs["input_ids"])
    assert foregone["input_ids"].shape[1] > short["input_ids"].shape[1]
    for mine, other in zip(foregone.prompt.rows, short.prompt.rows, strict=True):
        stays = torch.isin(mine.column, other.column)
        assert mine.position[:, stays].equal(other.position)
        assert bool((mine.position.diff(dim=1) >= 0).all())


def test_what_prunes_between_layers_is_refused():
    with pytest.raises(Unservable):
        renumbered(FastV(keep=0.5), PLAIN["reassigned"], NOBODY)


def run(dropped, moved, n=600):
    """REC rows in which so many of n are wrong, by way; VQA is all right."""
    wrong = {"preserved": 0, "reassigned": dropped, "renumbered": moved}
    rows = [row for kind in ("rec", "vqa") for row in made_rows(UNPRUNED, kind, [True] * n)]
    for way in WAYS:
        for pruner in PRUNERS:
            for keep in KEEPS:
                right = [False] * wrong[way] + [True] * (n - wrong[way])
                rows += made_rows(arm(pruner, keep, way), "rec", right)
                rows += made_rows(arm(pruner, keep, way), "vqa", [True] * n)
    return made_run(rows)


@pytest.mark.parametrize(
    ("dropped", "moved", "verdicts"),
    [
        (500, 500, [HOLDS, HOLDS, HOLDS, HOLDS, HOLDS, HOLDS, HOLDS, HOLDS, HOLDS]),
        (100, 0, [FAILS, HOLDS, FAILS, HOLDS, HOLDS, HOLDS, FAILS, FAILS, FAILS]),
        (300, 100, [UNTOLD, HOLDS, UNTOLD, HOLDS, HOLDS, HOLDS, HOLDS, FAILS, FAILS]),
    ],
)
def test_verdicts_follow_the_rows(dropped, moved, verdicts):
    found = OnePercent().findings([run(dropped, moved)] * 2)
    assert [claim.verdict for claim in found.claims] == verdicts


def test_the_answer_says_from_where_on_grounding_has_collapsed():
    fallen, standing = run(500, 500), run(100, 0)
    at_one = [row for row in standing.rows if "keep=0.99" in row["setting"]]
    later = [row for row in fallen.rows if "keep=0.99" not in row["setting"]]
    assert "has collapsed from 2% on" in OnePercent().findings([made_run(at_one + later)]).answer
    assert "is not seen to collapse" in OnePercent().findings([standing]).answer


def test_a_pruner_that_one_run_lacks_is_left_out_of_the_means():
    whole, other = run(500, 500), run(500, 500)
    fewer = made_run([row for row in other.rows if not row["setting"].startswith("random")])
    assert OnePercent().findings([whole, fewer]).claims[0].verdict == HOLDS


def test_nothing_measured_is_nothing_told():
    found = OnePercent().findings([made_run([])])
    assert {claim.verdict for claim in found.claims} == {UNTOLD}
    OnePercent().draw([made_run([])])


def test_rows_are_drawn_where_they_are():
    figure = OnePercent().draw([run(150, 0)])
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in figure.axes[0].get_lines()]
    assert any(np.isclose(y, 75).all() and len(y) == len(KEEPS) for y in drawn)
