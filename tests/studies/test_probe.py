"""Probes find places where they were written, and none where they were not."""

import pytest
import torch

from groundprune.errors import Unservable
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.studies.parts.depth import ABOUT
from groundprune.studies.parts.probing import (
    LINEAR,
    MLP,
    SHUFFLED,
    Effort,
    Split,
    cells,
    read_positions,
    standardised,
)
from groundprune.studies.parts.states import LLM, PROJECTOR, TOWER, Place, feeding, places, position_table, states
from groundprune.studies.probe import Probe
from groundprune.studies.study import FAILS, HOLDS, UNTOLD, Run

SIDE, IMAGES = 4, 24
EFFORT = Effort(80, 256)
CHANCE = 1 / SIDE**2


@pytest.fixture(scope="module")
def written():
    """A tower whose position embeddings outweigh the picture."""
    return tower_states(10.0)


@pytest.fixture(scope="module")
def blank():
    """The same without position embeddings."""
    return tower_states(0.0)


def tower_states(scale):
    model = tiny_model("llava", side=SIDE)
    table = model.model.vision_tower.embeddings.position_embedding.weight
    with torch.no_grad():
        table.copy_(scale * torch.randn(table.shape, generator=torch.Generator().manual_seed(0)))
    inputs = tiny_inputs(model, [(1, 2, 5)] * IMAGES)
    assert position_table(model) == ("learned" if scale else "all zeros")
    return states(model, [inputs], places(model))[0]


def shares(state):
    found = read_positions(state, (SIDE, SIDE), Split.of(len(state), 0), EFFORT)
    return {name: torch.tensor(right).float().mean(0) / SIDE**2 for name, right in found.items()}


@pytest.fixture(scope="module")
def read(written):
    return shares(written[Place(TOWER, 0)])


def test_probes_read_what_a_tower_writes(read):
    assert read[LINEAR][2] > 0.98
    assert all(share > 0.95 for share in read[MLP].tolist())  # rows of random embeddings need no straight border


def test_probes_read_nothing_where_nothing_is_written(blank):
    for place in (Place(TOWER, 2), Place(PROJECTOR, 0)):
        row, column, position = shares(blank[place])[LINEAR].tolist()
        assert position < CHANCE + 0.12
        assert max(row, column) < 1 / SIDE + 0.15


def test_shuffled_labels_teach_nothing_though_places_are_written(read):
    for name in SHUFFLED.values():
        assert read[name][2] < CHANCE + 0.12


def test_states_are_those_of_the_model(written):
    model = tiny_model("llava", side=SIDE)
    inputs = tiny_inputs(model, [(1, 2, 5), (1, 2, 3)])
    found, grid = states(model, [inputs], places(model))
    with torch.no_grad():
        tower = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
        rows = [
            model(input_ids=i[m][None], pixel_values=p[None], output_hidden_states=True).hidden_states
            for i, m, p in zip(
                inputs["input_ids"], inputs["attention_mask"].bool(), inputs["pixel_values"], strict=True
            )
        ]
    assert grid == (SIDE, SIDE)
    assert feeding(model) == Place(TOWER, 2)  # vision_feature_layer is -2, of 3
    for k in range(4):
        torch.testing.assert_close(found[Place(TOWER, k)], tower[k][:, 1:])
    for b, hidden in enumerate(rows):
        torch.testing.assert_close(found[Place(PROJECTOR, 0)][b], hidden[0][0, 2 : 2 + SIDE**2])
        for k in range(1, 5):
            torch.testing.assert_close(found[Place(LLM, k)][b], hidden[k][0, 2 : 2 + SIDE**2], atol=1e-4, rtol=1e-4)


def test_several_grids_are_refused():
    model = tiny_model("llava_next")
    with pytest.raises(Unservable, match="several grids"):
        states(model, [tiny_inputs(model, [(1, 2, 5)])], [Place(PROJECTOR, 0)])


def test_no_image_is_in_both_parts():
    split = Split.of(10, 3)
    assert sorted([*split.train.tolist(), *split.test.tolist()]) == list(range(10))
    assert len(split.test) == 2


def test_features_are_standardised_by_the_training_images():
    train = torch.randn(5, 4, 3) * torch.tensor([1.0, 100.0, 0.0]) + 7
    a, b = standardised(train, train + 1)
    assert a[..., :2].std((0, 1)).tolist() == pytest.approx([1, 1])
    assert a[..., 2].tolist() == b[..., 2].tolist()
    assert cells((2, 3))[4].tolist() == [1, 1, 4]


def made(levels, name="made"):
    """A run whose probes are right of these shares of 100 cells, in every one of 30 images."""
    measured = {ABOUT: {"feeds": "tower 2", "table": "learned", "train": 90, "test": 30}}
    for place, share in levels.items():
        right = [[10, 10, round(100 * share) + i % 2] for i in range(30)]
        at_chance = [[10, 10, 1]] * 30
        kinds = {LINEAR: right, MLP: right} | dict.fromkeys(SHUFFLED.values(), at_chance)
        measured[place] = {"grid": [10, 10], "right": kinds}
    return Run(name, [], measured)


PAPER = {"tower 1": 0.98, "tower 2": 0.02, "projector": 0.02, "llm 1": 0.6}
KEPT = {"tower 1": 0.98, "tower 2": 0.9, "projector": 0.9, "llm 1": 0.6}


@pytest.mark.parametrize(
    ("levels", "verdicts"),
    [(PAPER, [HOLDS, HOLDS, HOLDS, HOLDS, HOLDS, HOLDS]), (KEPT, [HOLDS, FAILS, HOLDS, FAILS, FAILS, HOLDS])],
)
def test_verdicts_follow_the_probes(levels, verdicts):
    found = Probe().findings([made(levels), made(levels, "twin")])
    assert [claim.verdict for claim in found.claims] == verdicts
    assert "98.5% / 98.5%" in found.answer


def test_what_was_not_measured_is_not_told():
    for runs in ([], [Run("made", [], {})], [made({"tower 1": 0.98})]):
        found = Probe().findings(runs)
        assert found.claims[1].verdict == found.claims[4].verdict == UNTOLD
        Probe().draw(runs)


def test_a_tower_without_position_embeddings_is_no_evidence_that_they_fade():
    run = made(PAPER)
    run.measured[ABOUT]["table"] = "all zeros"
    found = Probe().findings([run])
    assert [claim.verdict for claim in found.claims] == [UNTOLD, HOLDS, UNTOLD, HOLDS, HOLDS, HOLDS]
    assert any("never given" in note for note in found.notes)


def test_controls_that_learn_something_are_told():
    run = made(PAPER)
    for name, step in run.measured.items():
        if name != ABOUT:
            step["right"] |= dict.fromkeys(SHUFFLED.values(), [[10, 10, 9]] * 30)
    assert Probe().findings([run]).claims[5].verdict == FAILS
