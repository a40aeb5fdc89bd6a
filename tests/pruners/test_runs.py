"""Every registered pruner inside of a model: the right number of tokens, in batches, with several images."""

import math
from fractions import Fraction

import pytest
import torch

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.pruners import make_pruner, pruner_class
from support.closeness import assert_near
from support.embedder import Embedder
from support.families import ON_STILLS

KEEPS = ["1/6", "0.5", "0.9"]
TOO_FEW = {"feather": "1/6", "pyramiddrop": "1/6"}  # of 16 layers the first four see all: 0.25 on average
BEFORE = [name for name in ON_STILLS if not make_pruner(name, 0.9).inside]


@pytest.fixture(scope="module")
def model():
    return tiny_model("llava", layers=16)


def pruned(model, pruner, inputs, positions="preserved"):
    text = [f"row {'x' * i}" for i in range(len(inputs["input_ids"]))]
    with gp.prune(model, pruner, positions, text=text, text_tower=Embedder()) as run:
        out = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    return run, out


@pytest.mark.parametrize(
    ("name", "keep"), [(name, keep) for name in ON_STILLS for keep in KEEPS if keep != TOO_FEW.get(name)]
)
def test_generates_with_the_asked_for_number_of_tokens(model, name, keep):
    pruner = make_pruner(name, keep)
    inputs = tiny_inputs(model, [(1, 3, 4), (2, 2, 3)])
    if pruner.inside:  # `keep` is the average over the layers; see test_between_layers
        wanted = [pruner.stages(16)[-1].budget.count(36 * images, images) for images in (1, 2)]
    else:
        wanted = [math.floor(float(Fraction(keep)) * 36 * images + 0.5) for images in (1, 2)]
    run, out = pruned(model, pruner, inputs)
    assert [len(kept) for kept in run.kept] == wanted
    assert out.shape == (2, inputs["input_ids"].shape[1] + 2)
    merges = any(row.selection.merge is not None for row in run.rows) or any(s.merged for s in run.prompt.segments)
    assert merges == (pruner_class(name).merges_in is not None)
    assert all(row.features.isfinite().all() for row in run.rows)


@pytest.mark.parametrize("name", ON_STILLS)
def test_a_row_is_pruned_in_a_batch_as_it_is_alone(model, name):
    inputs = tiny_inputs(model, [(1, 3, 4), (1, 3, 4)])
    together, _ = pruned(model, make_pruner(name, tokens=12), inputs)
    first = {key: value[:1] for key, value in inputs.items()}
    alone, _ = pruned(model, make_pruner(name, tokens=12), first)
    assert together.kept[0].equal(alone.kept[0])
    assert_near(together.rows[0].features, alone.rows[0].features)


@pytest.mark.parametrize("name", BEFORE)
def test_runs_with_the_position_ids_of_its_authors(model, name):
    inputs = tiny_inputs(model, [(1, 3, 4)])
    run, _ = pruned(model, make_pruner(name, tokens=12), inputs, "official")
    ids = run.rows[0].position[0, 3:15]
    policy = pruner_class(name).official_positions
    if policy == "preserved":
        assert ids.equal(run.layout[0].position[0, run.kept[0]])
    else:
        assert ids.tolist() == list(range(3, 15))
    selection = run.rows[0].selection
    emitted = selection.kept if policy != "reassigned-in-order" else selection.kept[selection.order]
    assert run.kept[0].equal(emitted)
    assert run.rows[0].column[3:15].equal(run.layout[0].column[emitted])


def test_pruners_without_merging_take_features_as_they_are(model):
    inputs = tiny_inputs(model, [(1, 3, 4)])
    whole, _ = pruned(model, gp.Spatial(keep=1), inputs)
    for name in BEFORE:
        if not pruner_class(name).merges_in:
            run, _ = pruned(model, make_pruner(name, tokens=9), inputs)
            assert run.rows[0].features.equal(whole.rows[0].features[run.kept[0]]), name


def test_visionzip_holds_the_cls_token(model):
    """Its slot reads what the projector makes of the tower's CLS state, and no other slot does."""
    inputs = tiny_inputs(model, [(1, 3, 4), (1, 3, 4)])
    with torch.no_grad():
        states = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2]
        cls = model.model.multi_modal_projector(states[:, 0])
    run, _ = pruned(model, gp.VisionZip(tokens=12), inputs)
    for row, wanted in zip(run.rows, cls, strict=True):
        nearest = (row.features - wanted).norm(dim=-1)
        assert_near(row.features[nearest.argmin()], wanted)
        assert int(nearest.argmin()) == int(row.selection.order[0])
        assert (nearest < 1e-2 * wanted.norm()).sum() == 1


@pytest.mark.parametrize(
    ("pruner", "least"), [(gp.PruMerge, 2), (gp.PruMergePlus, 2), (gp.Trim, 2), (gp.VisionZip, 3)]
)
def test_a_budget_that_a_method_cannot_meet_names_the_smallest(model, pruner, least):
    inputs = tiny_inputs(model, [(1, 3, 4)])
    with pytest.raises(gp.GroundPruneError, match=rf"tokens={least} and keep={least}/36"):
        pruned(model, pruner(tokens=least - 1), inputs)
    run, _ = pruned(model, pruner(tokens=least), inputs)
    assert len(run.kept[0]) == least


@pytest.mark.parametrize("pruner", [gp.Trim, gp.CDPruner, gp.TextVisual])
def test_the_sign_turns_the_ranking_round(model, pruner):
    inputs = tiny_inputs(model, [(1, 3, 4)])
    default, _ = pruned(model, pruner(tokens=9), inputs)
    other, _ = pruned(model, pruner(tokens=9, sign=-pruner(tokens=9).sign), inputs)
    assert len(set(default.kept[0].tolist()) & set(other.kept[0].tolist())) <= 4
    with pytest.raises(gp.GroundPruneError, match="sign must be 1 or -1"):
        pruner(keep=0.5, sign=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gp.HiRED(keep=0.5, alpha=0), "alpha must"),
        (lambda: gp.HiPrune(keep=0.5, alpha=1.5), "alpha must be from 0 to 1"),
        (lambda: gp.VisPruner(keep=0.5, important=-1), "important must be from 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(gp.GroundPruneError, match=message):
        make()
