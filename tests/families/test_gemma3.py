"""Gemma 3: averaged patches, both directions within an image, sliding windows."""

import pytest
import torch

from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families.tiny_parts import PATCH
from support.closeness import assert_apart, assert_near
from support.families import PROMPTS
from support.proofs import (
    changed_places,
    encode,
    log_eager,
    received,
)


@pytest.fixture(scope="module")
def model():
    return tiny_model("gemma3")


@pytest.fixture(scope="module")
def inputs(model):
    return tiny_inputs(model, PROMPTS)


def test_the_tokens_of_an_image_see_each_other_in_both_directions(model):
    """What makes the exactness above worth proving: under a causal mask the tiny model gives something else."""
    inputs = tiny_inputs(model, [(1, 3, 3)])
    types = inputs["token_type_ids"]
    with torch.no_grad():
        both = model(**inputs).logits
        causal = model(**{**inputs, "token_type_ids": types * 0}).logits
    assert_apart(causal, both, 1e-2)


@pytest.mark.parametrize(("image", "row", "col"), [(0, 1, 6), (1, 7, 2)])
def test_a_painted_patch_is_found_where_the_layout_says(model, inputs, image, row, col):
    painted = inputs["pixel_values"].clone()
    painted[image, :, row * PATCH : (row + 1) * PATCH, col * PATCH : (col + 1) * PATCH] += 5.0
    places = changed_places(model, inputs, {**inputs, "pixel_values": painted}, "image", image)
    assert places == {(0, row // 2, col // 2)}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layer", [0, None])
def test_scores_are_the_attention_that_a_tokens_patches_receive(model, inputs, monkeypatch, layer, attention):
    tower = model.model.vision_tower
    module = tower.encoder.layers[-1 if layer is None else layer].self_attn
    with monkeypatch.context() as patched:
        weights = log_eager(patched, tower, module)
        encode(model, inputs, "image")
    patches = weights[0].mean(2).unflatten(-1, (8, 8))  # [images, heads, rows, cols]
    monkeypatch.setattr(tower.config, "_attn_implementation", attention)
    _, record = encode(model, inputs, "image", received(layer))
    for image, unit in enumerate(record.units):
        for token, (row, col) in enumerate(zip(unit.row.tolist(), unit.col.tolist(), strict=True)):
            wanted = patches[image, :, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].mean((-1, -2))
            assert_near(record.values[received(layer)][image][token], wanted)
