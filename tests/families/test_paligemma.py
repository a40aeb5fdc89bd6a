"""PaliGemma: a prefix that sees all of itself, positions from 1."""

import pytest
import torch

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.exactness.verify import relative_difference
from groundprune.families import family_of
from groundprune.families.tiny_parts import PATCH
from groundprune.signals import TOWER_HIDDEN
from support.closeness import assert_near
from support.families import PROMPTS
from support.proofs import (
    changed_places,
    encode,
    log_eager,
    received,
)


@pytest.fixture(scope="module")
def model():
    return tiny_model("paligemma")


@pytest.fixture(scope="module")
def inputs(model):
    return tiny_inputs(model, PROMPTS)


def test_positions_begin_at_one_as_in_a_stock_forward(model):
    inputs, seen = tiny_inputs(model, [(1, 2, 3)]), []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
        with gp.prune(model, gp.Spatial(keep=0.2)) as run:
            model(**inputs)
    handle.remove()
    stock, pruned = seen
    assert stock[0, :3].tolist() == [1, 2, 3]
    assert pruned.equal(stock[:, run.rows[0].column])


@pytest.mark.parametrize(("image", "row", "col"), [(0, 1, 3), (2, 4, 0)])
def test_a_painted_patch_is_found_where_the_layout_says(model, inputs, image, row, col):
    painted = inputs["pixel_values"].clone()
    painted[image, :, row * PATCH : (row + 1) * PATCH, col * PATCH : (col + 1) * PATCH] += 5.0
    places = changed_places(model, inputs, {**inputs, "pixel_values": painted}, "image", image)
    assert places == {(0, row, col)}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layer", [0, None])
def test_scores_are_the_attention_that_a_patch_receives(model, inputs, monkeypatch, layer, attention):
    tower = model.model.vision_tower
    module = tower.encoder.layers[-1 if layer is None else layer].self_attn
    with monkeypatch.context() as patched:
        weights = log_eager(patched, tower, module)
        encode(model, inputs, "image")
    monkeypatch.setattr(tower.config, "_attn_implementation", attention)
    _, record = encode(model, inputs, "image", received(layer))
    assert_near(torch.stack(record.values[received(layer)]).transpose(1, 2), weights[0].mean(2))


def test_projecting_tower_states_gives_what_the_llm_reads(model, inputs):
    features, record = encode(model, inputs, "image", TOWER_HIDDEN)
    states = torch.cat(record.values[TOWER_HIDDEN])
    with torch.no_grad():
        projected = family_of(model.config).project(model.base_model, states)
    assert relative_difference([projected], [torch.cat(features)]) < 1e-6
