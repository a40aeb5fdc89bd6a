"""Signals recorded from the tower against what eager attention with output_attentions gives."""

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import family_of
from groundprune.probes import attention, readers
from groundprune.probes.calls import sequences
from groundprune.probes.tower import encode, record_of, recordable
from groundprune.signals import CLIP_PATCHES, FINGERPRINT, TOWER_HIDDEN, Need
from support.closeness import assert_near

LAYERS = [None, 0, 2, -1]


@pytest.fixture(scope="module")
def model():
    return tiny_model("llava", side=6)


@pytest.fixture(scope="module")
def pixels(model):
    return tiny_inputs(model, [(1, 2, 2), (2, 2, 2)])["pixel_values"]


def record(model, pixels, *needs):
    with torch.no_grad():
        pixels = {"pixel_values": pixels}
        return record_of(encode(model.model, family_of(model.config), "image", pixels, recordable(needs)))


@pytest.fixture(scope="module")
def eager(model, pixels):
    model.model.vision_tower.set_attn_implementation("eager")
    with torch.no_grad():
        out = model.model.vision_tower(pixels, output_attentions=True, output_hidden_states=True)
    model.model.vision_tower.set_attn_implementation("sdpa")
    return out


@pytest.mark.parametrize("layer", LAYERS)
def test_attention_rows_equal_eager_attention(model, pixels, eager, layer):
    needs = Need("tower_attention", layer, "cls"), Need("tower_attention", layer, "received")
    found = record(model, pixels, *needs)
    # The tiny model reads hidden_states[-2]: the output of block 1 of 3.
    weights = eager.attentions[1 if layer is None else layer]
    for need, wanted in zip(needs, (weights[:, :, 0], weights.mean(2)), strict=True):
        got = torch.stack(found.values[need])  # [images, patches, heads]: the CLS token is no visual token
        assert_near(got.transpose(1, 2), wanted[..., 1:])


def test_hidden_states_and_keys_are_the_towers_own(model, pixels, eager):
    keys = Need("tower_keys", 2)
    found = record(model, pixels, CLIP_PATCHES, keys)
    assert_near(torch.stack(found.values[TOWER_HIDDEN]), eager.hidden_states[-2][:, 1:])
    layer = model.model.vision_tower.encoder.layers[2]
    wanted = layer.self_attn.k_proj(layer.layer_norm1(eager.hidden_states[2]))
    assert_near(torch.stack(found.values[keys]).flatten(2), wanted[:, 1:])


def test_recording_changes_no_feature_and_runs_the_tower_once(model, pixels):
    calls = []
    handle = model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        stock = model.model.get_image_features(pixel_values=pixels).pooler_output
        needs = frozenset({gp.Need("tower_keys")})
        recorded = encode(
            model.model, family_of(model.config), "image", {"pixel_values": pixels}, needs
        ).pooler_output
    handle.remove()
    assert all(a.equal(b) for a, b in zip(stock, recorded, strict=True))
    assert len(calls) == 2


def test_the_fingerprint_is_a_function_of_the_pixels_alone(model, pixels):
    together = record(model, pixels, FINGERPRINT).fingerprint
    alone = record(model, pixels[1:2], FINGERPRINT).fingerprint
    assert together[1] == alone[0]
    assert len(set(together)) == 3


def test_the_fingerprint_does_not_depend_on_the_precision_that_pixels_came_in(model, pixels):
    wanted = record(model, pixels, FINGERPRINT).fingerprint
    assert record(model, pixels.bfloat16().float(), FINGERPRINT).fingerprint == wanted


def test_scores_land_on_the_patch_they_belong_to(model, pixels):
    """Paint one patch: the visual token whose feature changes most is the one at that row and column."""
    inputs = tiny_inputs(model, [(1, 3, 3)])
    painted = inputs["pixel_values"].clone()
    painted[0, :, 4 * 4 : 5 * 4, 1 * 4 : 2 * 4] += 5.0  # patch size 4: row 4, column 1
    features = []
    for picture in (inputs["pixel_values"], painted):
        with gp.prune(model, gp.Spatial(keep=1.0)) as run, torch.no_grad():
            model(**{**inputs, "pixel_values": picture})
        features.append(run.rows[0].features)
    changed = int((features[1] - features[0]).norm(dim=-1).argmax())
    assert (int(run.layout[0].row[changed]), int(run.layout[0].col[changed])) == (4, 1)


def test_a_layer_that_the_tower_lacks_is_named(model, pixels):
    with pytest.raises(gp.GroundPruneError, match=r"3 layers.*layer 7"):
        record(model, pixels, Need("tower_attention", 7, "cls"))


@pytest.mark.parametrize("kind", ["cls", "received"])
def test_eager_attention_gives_the_same_scores_and_leaves_no_trace(model, pixels, kind):
    need = gp.Need("tower_attention", None, kind)
    wanted = record(model, pixels, need).values[need]
    model.model.vision_tower.set_attn_implementation("eager")
    try:
        got = record(model, pixels, need).values[need]
    finally:
        model.model.vision_tower.set_attn_implementation("sdpa")
    assert_near(torch.stack(got), torch.stack(wanted))
    assert not ALL_ATTENTION_FUNCTIONS._local_mapping


def test_a_packed_flash_call_is_read_sequence_by_sequence():
    """Two sequences in one call, as flash attention gets them, score as each would alone."""
    query, key, value = torch.randn(3, 1, 2, 9, 4, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([0, 5, 9], dtype=torch.int32)
    parts = sequences(attention.AttentionCall(query, key, value), ends)
    got = torch.cat([readers.received(part) for part in parts], dim=1)
    weights = (query[:, :, 5:] @ key[:, :, 5:].transpose(-1, -2) / 2).softmax(-1).mean(2)
    assert_near(got[:, 5:].transpose(1, 2), weights)
    mask = torch.block_diag(torch.ones(5, 5), torch.ones(4, 4)).bool()[None, None]
    assert_near(readers.received(attention.AttentionCall(query, key, value, mask=mask)), got)


def test_attention_received_does_not_depend_on_the_size_of_the_chunks():
    call = attention.AttentionCall(*torch.randn(3, 1, 2, 9, 4, generator=torch.Generator().manual_seed(0)))
    assert_near(readers.received(call, chunk=2), readers.received(call))
