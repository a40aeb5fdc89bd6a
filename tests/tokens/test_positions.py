"""Policies on one hand-made row: text a b, image 0 of four tokens, text c, image 1 of three, text d e."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundprune.errors import GroundPruneError
from groundprune.tokens.compaction import compact, emitted
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.positions import PLAIN, Row, parse_policy

COLUMNS = [2, 3, 4, 5, 7, 8, 9]
LENGTH = 12


def make_row(kept, axes=1, offset=0):
    column = torch.tensor(COLUMNS)
    position = (torch.arange(LENGTH) + offset).repeat(axes, 1)
    layout = VisualLayout(
        column=column,
        image=torch.tensor([0, 0, 0, 0, 1, 1, 1]),
        tile=torch.zeros(7, dtype=torch.long),
        row=torch.zeros(7, dtype=torch.long),
        col=torch.tensor([0, 1, 2, 3, 0, 1, 2]),
        is_patch=torch.ones(7, dtype=torch.bool),
        crop=torch.zeros(7, dtype=torch.long),
        overview=torch.ones(7, dtype=torch.bool),
        position=position[:, column],
        length=LENGTH,
    )
    kept = torch.tensor(kept)
    keep = torch.ones(LENGTH, dtype=torch.bool).index_fill(0, column, False).index_fill(0, column[kept], True)
    return Row(position, compact(keep[None], emitted(column[kept], LENGTH)[None]).index[0], layout, kept)


def three_axes_row():
    row = make_row([1, 3, 4, 6], axes=3)
    position = torch.tensor(THREE_AXES)
    return replace(row, position=position, layout=replace(row.layout, position=position[:, row.layout.column]))


def ids(policy, row):
    new, shift = parse_policy(policy)(row)
    return new[0].tolist(), shift


KEPT = [1, 3, 4, 6]  # columns 3 5 of image 0 and 7 9 of image 1; the columns that stay are 0 1 3 5 6 7 9 10 11


@pytest.mark.parametrize(
    ("policy", "expected", "shift"),
    [
        ("preserved", [0, 1, 3, 5, 6, 7, 9, 10, 11], 0),
        ("reassigned", [0, 1, 2, 3, 4, 5, 6, 7, 8], -3),
        ("reassigned-image", [0, 1, 2, 3, 6, 7, 8, 10, 11], 0),
        ("stretched", [0, 1, 2, 5, 6, 7, 9, 10, 11], 0),
        ("shifted:5", [0, 1, 8, 10, 11, 12, 14, 15, 16], 5),
    ],
)
def test_ids_and_shift_by_hand(policy, expected, shift):
    assert ids(policy, make_row(KEPT)) == (expected, shift)


def test_stretched_keeps_the_ends_and_rounds_half_up():
    # Image 0 has ids 2..5; three kept: 2, 2 + 1.5 -> 4, 5. A single kept token starts at the image's first id.
    assert ids("stretched", make_row([0, 1, 2, 6]))[0] == [0, 1, 2, 4, 5, 6, 7, 10, 11]


def test_positions_that_start_elsewhere_keep_their_offset():
    assert ids("reassigned", make_row(KEPT, offset=40))[0] == [40 + i for i in range(9)]


def test_reassigned_in_order_numbers_tokens_as_the_method_emits_them():
    row = make_row([3, 1, 6, 4])  # of each image the second kept token is emitted first
    assert row.column.tolist() == [0, 1, 5, 3, 6, 9, 7, 10, 11]
    assert row.slot.tolist() == [2, 3, 5, 6]
    policy = parse_policy("official", "reassigned-in-order")
    assert policy.in_order
    new, shift = policy(row)
    assert new[0].tolist() == list(range(9))  # consecutive in the sequence
    assert shift == -3


def test_official_is_what_the_pruner_says():
    assert str(parse_policy("official", "preserved")) == "preserved"
    assert str(parse_policy("official", "reassigned")) == "reassigned"


@pytest.mark.parametrize("policy", sorted(PLAIN))
def test_a_row_that_lost_nothing_keeps_its_ids(policy):
    row = make_row(list(range(7)), axes=3)
    new, shift = parse_policy(policy)(row)
    assert new.equal(row.position)
    assert shift == 0


# M-RoPE. Text a b, image 0 of 2 x 2 tokens, text c, a video of three frames of one token, 4 ids apart in time, d e.
THREE_AXES = [
    [0, 1, 2, 2, 2, 2, 4, 5, 9, 13, 6, 7],
    [0, 1, 2, 2, 3, 3, 4, 5, 5, 5, 6, 7],
    [0, 1, 2, 3, 2, 3, 4, 5, 5, 5, 6, 7],
]


@pytest.mark.parametrize(
    ("policy", "expected", "shift"),
    [
        # Kept: the right token of each row of the image, the first and the last frame of the video.
        (
            "preserved",
            [[0, 1, 2, 2, 4, 5, 13, 6, 7], [0, 1, 2, 3, 4, 5, 5, 6, 7], [0, 1, 3, 3, 4, 5, 5, 6, 7]],
            0,
        ),
        ("reassigned", [[0, 1, 2, 3, 4, 5, 6, 7, 8]] * 3, 1),  # the generated token has 9, not 8
        ("reassigned-image", [[0, 1, 2, 3, 4, 5, 6, 6, 7]] * 3, 0),
        (
            "stretched",
            [[0, 1, 2, 2, 4, 5, 13, 6, 7], [0, 1, 2, 3, 4, 5, 5, 6, 7], [0, 1, 2, 3, 4, 5, 5, 6, 7]],
            0,
        ),
        (
            "shifted:5",
            [[0, 1, 7, 7, 9, 10, 18, 11, 12], [0, 1, 7, 8, 9, 10, 10, 11, 12], [0, 1, 8, 8, 9, 10, 10, 11, 12]],
            5,
        ),
    ],
)
def test_ids_and_shift_on_three_axes_by_hand(policy, expected, shift):
    row = three_axes_row()
    new, moved = parse_policy(policy)(row)
    assert new.tolist() == expected
    assert moved == shift


def test_permuted_moves_all_axes_of_a_token_together():
    row = three_axes_row()
    for seed in range(5):
        new, _ = parse_policy(f"permuted:{seed}")(row)
        visual = [2, 3, 5, 6]
        assert sorted(new[:, visual].T.tolist()) == sorted(row.original[:, visual].T.tolist())
        assert new[:, [0, 1, 4, 7, 8]].equal(row.original[:, [0, 1, 4, 7, 8]])


def test_reassigned_counts_on_from_an_image_that_ends_the_row():
    row = make_row([0])
    layout = replace(row.layout, column=row.layout.column[:4], image=row.layout.image[:4])
    ended = Row(row.position[:, :6], torch.tensor([0, 1, 2]), layout, torch.tensor([0]))
    assert parse_policy("reassigned")(ended)[1] == -3  # what follows had 6, and has 3


@given(st.integers(0, 1000), st.sampled_from(["", ":0.5"]))
def test_permuted_shuffles_visual_ids_among_themselves_only(seed, share):
    row = make_row(KEPT)
    new, shift = parse_policy(f"permuted:{seed}{share}")(row)
    visual = [2, 3, 5, 6]
    text = [0, 1, 4, 7, 8]
    assert sorted(new[0, visual].tolist()) == row.original[0, visual].tolist()
    assert new[0, text].equal(row.original[0, text])
    assert shift == 0
    if share:
        assert (new != row.original).sum() <= 2


def test_permuted_depends_on_its_seed_alone():
    row = make_row(list(range(7)))
    orders = {tuple(parse_policy(f"permuted:{seed}")(row)[0][0].tolist()) for seed in range(10)}
    assert len(orders) > 5
    assert parse_policy("permuted:3")(row)[0].equal(parse_policy("permuted:3")(row)[0])


@pytest.mark.parametrize(
    ("policy", "expected", "shift"),
    [
        ("scaled:2", [0, 1, 2, 4, 6, 8, 9, 10, 12, 14, 15, 16], 5),
        ("scaled:1/2", [0, 1, 2, 2, 3, 3, 4, 5, 5, 6, 7, 8], -3),
        ("scaled:1", list(range(LENGTH)), 0),
    ],
)
def test_scaled_spreads_each_image_and_text_follows_its_end(policy, expected, shift):
    new, moved = parse_policy(policy)(make_row(list(range(7))))
    assert (new[0].tolist(), moved) == (expected, shift)


@pytest.mark.parametrize(
    "text",
    [
        "scaled:0",
        "scaled:1/0",
        "scaled:x",
        "shifted",
        "shifted:x",
        "permuted",
        "permuted:1:2",
        "permuted:-1",
        "permuted:1:0",
        "permuted:1000000000000000000000",
    ],
)
def test_malformed_arguments_name_what_is_allowed(text):
    with pytest.raises(GroundPruneError, match="SEED"):
        parse_policy(text)


def test_an_unknown_policy_names_the_nearest():
    with pytest.raises(GroundPruneError, match="did you mean 'preserved'"):
        parse_policy("perserved")


def test_a_shift_below_zero_is_refused():
    with pytest.raises(GroundPruneError, match="negative"):
        parse_policy("shifted:-5")(make_row(KEPT))
