"""Settings, scores, statistics: what needs no model."""

import pytest

from groundprune.boxes import Box
from groundprune.data import Sample, scene_samples
from groundprune.errors import GroundPruneError
from groundprune.evaluation import Setting, compare_settings, paired_difference, wilson
from groundprune.evaluation.scoring import Scorer, same_words
from groundprune.families.grounding import Grounding

GROUNDING = Grounding("locate {expression}", "{question}", codec="llava", frame="padded")


def rec(image_size=(100, 50), box=(10, 10, 30, 40)):
    from PIL import Image

    return Sample("a", Image.new("RGB", image_size), "rec", "attribute", "the cup", Box(*box), None, "test")


def test_scenes_are_a_pure_function_of_their_arguments():
    first, again, other = (list(scene_samples(3, seed)) for seed in (1, 1, 2))
    assert [s.kind for s in first] == ["rec"] * 3 + ["vqa"] * 3
    assert [(s.id, s.text, s.box, s.answer) for s in first] == [(s.id, s.text, s.box, s.answer) for s in again]
    assert [s.image.tobytes() for s in first] == [s.image.tobytes() for s in again]
    assert [s.text for s in first] != [s.text for s in other]


@pytest.mark.parametrize(("n", "split"), [(0, "held-out"), (1, "held-in")])
def test_scenes_refuse_nonsense_at_once(n, split):
    with pytest.raises(GroundPruneError):
        scene_samples(n, 0, split)


def test_a_sample_without_its_answer_is_refused():
    with pytest.raises(GroundPruneError, match="no box"):
        Sample("a", rec().image, "rec", "attribute", "the cup", None, "yes", "test")


def test_default_grid():
    ids = [s.id for s in compare_settings()]
    assert ids[0] == "unpruned"
    assert len(ids) == len(set(ids)) == 1 + 4 * 4 * 2 + 4 * 2 + 4
    assert "cls-visual/keep=0.1/reassigned" in ids
    assert "random/keep=0.5/stretched" in ids
    assert "unpruned/shifted:64" in ids


def test_named_positions_replace_the_default_ones_and_nothing_runs_twice():
    settings = compare_settings(["random", "random"], ["1/2", 0.5, "0.50"], ["preserved", "shifted:8"], tokens=[9])
    assert [s.id for s in settings] == [
        "unpruned",
        "random/keep=0.5/preserved",
        "random/keep=0.5/shifted:8",
        "random/tokens=9/preserved",
        "random/tokens=9/shifted:8",
        "unpruned/shifted:8",
    ]


def test_keep_that_is_no_decimal_stays_exact():
    assert Setting.of("random", "1/3").id == "random/keep=1/3/preserved"
    assert Setting.of("random", "1/3").make_pruner().budget.count(144) == 48


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pruners": ["cls-visul"]}, "did you mean 'cls-visual'"),
        ({"keeps": ["0"]}, "above 0"),
        ({"keeps": [1.5]}, "at most 1"),
        ({"positions": ["kept"]}, "unknown position policy"),
        ({"positions": ["shifted:x"]}, "malformed"),
        ({"tokens": [0]}, "at least 1"),
    ],
)
def test_settings_are_validated(arguments, message):
    with pytest.raises(GroundPruneError, match=message):
        compare_settings(**arguments)


def test_a_box_is_scored_in_the_frame_of_the_checkpoint():
    # 100 x 50 padded to 100 x 100: 25 pixels of padding above the image.
    score = Scorer(GROUNDING).score(rec(), "[0.10, 0.35, 0.30, 0.65]")
    assert score == {"correct": True, "iou": 1.0, "box": [10.0, 10.0, 30.0, 40.0]}


@pytest.mark.parametrize("answer", ["", "no cup", "[0.10, 0.35, 0.30]", "[0.30, 0.35, 0.10, 0.65]"])
def test_a_malformed_box_is_wrong(answer):
    assert Scorer(GROUNDING).score(rec(), answer) == {"correct": False, "iou": 0.0, "box": None}


def test_words_are_compared_without_case_and_punctuation():
    assert same_words(" Red. ", "red")
    assert same_words("left  of", "Left of!")
    assert not same_words("red star", "red")
    assert not same_words("", "red")


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718), (0, 0, 0, 1)],
)
def test_wilson_interval(correct, n, low, high):
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_paired_difference_is_a_function_of_its_seed():
    a, b = [True] * 60 + [False] * 40, [True] * 50 + [False] * 50
    first = paired_difference(a, b, seed=3)
    assert first == paired_difference(a, b, seed=3)
    assert first[0] == pytest.approx(0.1)
    # Ten wins, no loss, in 100: the 95% range of Binomial(100, 0.1) is 5 to 16.
    assert first[1:] == pytest.approx((0.05, 0.16), abs=0.011)


def test_paired_difference_knows_pairs():
    a, b = [True, False] * 50, [False, True] * 50
    assert paired_difference(a, a)[1:] == (0.0, 0.0)
    mean, low, high = paired_difference(a, b)
    assert mean == 0
    assert low < -0.15 < 0.15 < high
    with pytest.raises(ValueError, match="pairs"):
        paired_difference(a, b[1:])
