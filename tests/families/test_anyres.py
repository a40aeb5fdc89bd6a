"""What LLaVA-NeXT and LLaVA-OneVision alone have."""

import pytest
import torch

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs
from groundprune.families import family_of
from groundprune.families.tiny_parts import IMAGE, PAD
from groundprune.signals import TOWER_HIDDEN
from support.families import encoded, inputs_of, model_of, signals_of


@torch.no_grad()
def test_the_projector_makes_tokens_of_tower_states_and_leaves_newlines_alone():
    model, inputs = model_of("llava_next"), inputs_of("llava_next")
    found = encoded("llava_next", inputs, TOWER_HIDDEN)
    for signals, features in zip(signals_of(found), found.features, strict=True):
        made = family_of(model.config).project(model.model, signals.tower_hidden())
        same = (made - features).abs().amax(-1) <= 1e-5 * features.abs().max()
        assert same.equal(signals.layout.is_patch)


def test_what_is_interpolated_after_the_projector_is_not_projected_by_us():
    model = model_of("llava_onevision")
    with pytest.raises(gp.Unservable, match="interpolates"):
        family_of(model.config).project(model.model, torch.zeros(1, 32))


def test_images_that_share_a_prompt_are_seen_whole():
    """`batch_num_images`: two images of row 0 are one crop and one newline each, the one of row 1 has its tiles."""
    model = model_of("llava_onevision")
    pixels = tiny_inputs(model, [(2, 3, 4)])["pixel_values"]
    sizes = torch.tensor([[32, 20], [10, 32], [10, 32]])
    row = [2, 3, *[IMAGE] * 17, 4, *[IMAGE] * 17, 5, 6, 7]
    tiled = [8, *[IMAGE] * (16 + 2 * 9), 9]
    ids = torch.tensor([row, [PAD] * (len(row) - len(tiled)) + tiled])
    inputs = {
        "input_ids": ids, "attention_mask": (ids != PAD).long(), "image_sizes": sizes,
        "pixel_values": torch.cat([pixels, pixels[:1] + 1]),
        "batch_num_images": torch.tensor([2, 1]),
    }  # fmt: skip
    layout, other = encoded("llava_onevision", inputs).layouts
    assert layout.tile.unique().tolist() == [0]
    assert (~layout.is_patch).nonzero().flatten().tolist() == [16, 33]
    assert other.tile.unique().tolist() == [0, 1]
    assert gp.verify(model, inputs, gp.ClsVisual(keep=0.5), steps=2).passed


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_of_a_very_thin_image_only_the_whole_is_left(family):
    """Its tiles are padding but for less than a row of patches."""
    model = model_of(family)
    ids = torch.tensor([[2, 3, *[IMAGE] * 16, 4, 5]])
    pixels = torch.randn(1, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels,
        "image_sizes": torch.tensor([[2, 90]]),
    }  # fmt: skip
    (layout,) = encoded(family, inputs).layouts
    assert layout.tile.unique().tolist() == [0]
    assert gp.verify(model, inputs, gp.ClsVisual(keep=0.5), steps=2).passed
