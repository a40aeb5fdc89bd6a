"""Mistral 3: images of several sizes in one packed sequence, rows of placeholders with breaks between."""

import pytest
import torch
import transformers

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families.mistral3 import TINY_SIZES
from groundprune.families.tiny_parts import PATCH
from groundprune.signals import FINGERPRINT
from support.closeness import assert_near
from support.families import PROMPTS
from support.proofs import (
    changed_places,
    encode,
    log_eager,
    received,
    use_flash,
)


@pytest.fixture(scope="module")
def model():
    return tiny_model("mistral3")


@pytest.fixture(scope="module")
def inputs(model):
    return tiny_inputs(model, PROMPTS)  # images of both sizes in turn


def test_breaks_between_rows_of_placeholders_are_text(model):
    with gp.prune(model, gp.Spatial(keep=0.5)) as run, torch.no_grad():
        model(**tiny_inputs(model, [(2, 2, 3)]))
    layout = run.layout[0]
    assert [layout.grid(group) for group in layout.groups()] == [(3, 5), (4, 2)]
    # 2 words, three rows of five with a break after each, 2 words, four rows of two.
    assert (layout.column - layout.col).unique().tolist() == [2, 8, 14, 22, 25, 28, 31]
    text = sorted(set(range(layout.length)) - set(layout.column.tolist()))
    assert set(text) <= set(run.rows[0].column.tolist())


@pytest.mark.parametrize(("image", "row", "col"), [(0, 1, 6), (0, 5, 0), (1, 6, 1), (2, 4, 9)])
def test_a_painted_patch_is_found_where_the_layout_says(model, inputs, image, row, col):
    painted = inputs["pixel_values"].clone()
    painted[image, :, row * PATCH : (row + 1) * PATCH, col * PATCH : (col + 1) * PATCH] += 5.0
    places = changed_places(model, inputs, {**inputs, "pixel_values": painted}, "image", image)
    assert places == {(0, row // 2, col // 2)}


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash"])
@pytest.mark.parametrize("layer", [0, None])
def test_scores_are_the_attention_within_ones_own_image(model, inputs, monkeypatch, layer, attention):
    tower = model.model.vision_tower
    with monkeypatch.context() as patched:
        weights = log_eager(patched, tower, tower.transformer.layers[-1 if layer is None else layer].attention)
        encode(model, inputs, "image")
    if attention == "eager":
        monkeypatch.setattr(tower.config, "_attn_implementation", "eager")
    if attention == "flash":
        if transformers.__version__.startswith("5.19."):
            pytest.skip("5.19 gives flash attention no lengths for Pixtral: images would see each other")
        use_flash(monkeypatch, tower)
    _, record = encode(model, inputs, "image", received(layer))
    start = 0
    for i, unit in enumerate(record.units):
        rows, cols = TINY_SIZES[i % 2]
        own = slice(start, start + rows * cols)
        start += rows * cols
        patches = weights[0][0, :, own, own].mean(1).unflatten(-1, (rows, cols))
        for token, (row, col) in enumerate(zip(unit.row.tolist(), unit.col.tolist(), strict=True)):
            wanted = patches[:, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].mean((-1, -2))
            assert_near(record.values[received(layer)][i][token], wanted)


def test_padding_to_the_largest_image_leaves_no_trace_in_the_fingerprint(model, inputs):
    _, together = encode(model, inputs, "image", FINGERPRINT)
    height, width = inputs["image_sizes"][1].tolist()
    cut = inputs["pixel_values"][1:2, :, :height, :width]
    assert cut.shape[2:] != inputs["pixel_values"].shape[2:]
    _, alone = encode(model, {"pixel_values": cut, "image_sizes": inputs["image_sizes"][1:2]}, "image", FINGERPRINT)
    assert alone.fingerprint == together.fingerprint[1:2]
