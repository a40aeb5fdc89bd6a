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
from support.proofs import (
    PROMPTS,
    PRUNERS,
    changed_places,
    encode,
    equals_oracle,
    exact,
    log_eager,
    loop_equals_generate,
    received,
)


@pytest.fixture(scope="module")
def model():
    return tiny_model("paligemma")


@pytest.fixture(scope="module")
def inputs(model):
    return tiny_inputs(model, PROMPTS)


@pytest.mark.parametrize("keep", [0.5, 0.25])
@pytest.mark.parametrize("pruner", PRUNERS)
def test_pruning_is_exact_under_a_mask_that_sees_the_whole_prefix(model, inputs, pruner, keep):
    exact(model, inputs, pruner(keep=keep))


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"use_cache": False}], ids=["beams", "no cache"])
def test_every_way_to_generate_equals_the_masked_oracle(model, inputs, options):
    equals_oracle(model, inputs, gp.ClsVisual(keep=0.4), **options)


@pytest.mark.parametrize("positions", ["preserved", "reassigned"])
def test_a_loop_of_ones_own_equals_generate(model, positions):
    loop_equals_generate(model, tiny_inputs(model, [(2, 5, 7)]), positions)


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
