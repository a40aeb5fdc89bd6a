"""What methods take from the model that they run on: the rotary embedding, layers, their authors' position ids."""

from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2_5_VLConfig

import groundprune as gp
from groundprune.evaluation.specs import Setting
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import families
from groundprune.families.base import family_of
from groundprune.probes.tower import block_index, encode, record_of
from groundprune.pruners import ivc_prune, pruner_class, pruner_names
from groundprune.pruners.hiprune import _DEEP, _MIDDLE
from groundprune.pruning import layers
from groundprune.pruning.layer_inputs import LayerInputs
from groundprune.signals import Need
from groundprune.tokens.positions import PLAIN, parse_policy


def config(model_type, layers):
    text = SimpleNamespace(num_hidden_layers=layers)
    return SimpleNamespace(model_type=model_type, get_text_config=lambda: text)


@pytest.mark.parametrize("name", list(families()))
def test_the_frequencies_are_those_of_the_models_own_rotary_embedding(name):
    """cos and sin of position 1 are those of the frequencies themselves."""
    decoder = tiny_model(name).get_decoder()
    inputs = LayerInputs(decoder, decoder.config, [None] * 4, exact_windows=True)
    for layer in range(decoder.config.num_hidden_layers):
        frequencies = inputs.frequencies(layer)
        cos = inputs.rotary(torch.ones(1, 1, dtype=torch.long), 1, inputs.kind(layer))[0].flatten()
        if name.startswith("qwen"):  # three axes, alike here
            cos = inputs.rotary(torch.ones(3, 1, 1, dtype=torch.long), 3, None)[0].flatten()
        torch.testing.assert_close(cos[: len(frequencies)], frequencies.cos(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("theta", [177.0, 1e4, 1e6])
def test_ivc_prune_anchors_by_the_models_rotary_base(theta, monkeypatch):
    model = tiny_model("llava", layers=8)
    model.get_decoder().config.rope_parameters["rope_theta"] = theta
    rotary = type(model.get_decoder().rotary_emb)(model.get_decoder().config)
    model.get_decoder().rotary_emb = rotary
    seen, plain = [], ivc_prune.coordinate_scores
    monkeypatch.setattr(ivc_prune, "coordinate_scores", lambda *given: seen.append(given) or plain(*given))
    with gp.prune(model, gp.IVCPrune(keep=0.5)), torch.no_grad():
        model(**tiny_inputs(model, [(1, 4, 5)]))
    ((_, frequencies),) = seen
    head = model.get_decoder().layers[0].self_attn.head_dim
    torch.testing.assert_close(frequencies, theta ** -(torch.arange(0, head, 2) / head))


@pytest.mark.parametrize(
    ("model_type", "layers", "wanted"),
    [
        ("llava", 32, 16), ("qwen2_5_vl", 28, 16), ("qwen2_vl", 28, 2), ("qwen2_5_vl", 64, 37), ("qwen2_vl", 80, 6),
        ("qwen3_vl", 28, 14), ("qwen2_vl", 4, 1),
    ],
)  # fmt: skip
def test_ivc_prune_acts_at_its_authors_layer(model_type, layers, wanted):
    (stage,) = gp.IVCPrune(keep=0.5).for_model(config(model_type, layers)).stages(layers)
    assert stage.layer == wanted
    (stage,) = gp.IVCPrune(keep=0.5, layer=3).for_model(config(model_type, layers)).stages(layers)
    assert stage.layer == 3


def test_a_context_runs_the_pruner_of_its_model():
    model = tiny_model("qwen2_vl", layers=28)
    with gp.prune(model, gp.IVCPrune(keep=0.5)) as run, torch.no_grad():
        model(**tiny_inputs(model, [(1, 4, 5)]))
    assert [layer for layer, _ in run.stages] == [0, 2]


def test_hiprune_reads_blocks_that_attend_to_the_whole_image():
    real = Qwen2_5_VLConfig()
    family = family_of(real)
    assert (real.vision_config.depth, real.vision_config.fullatt_block_indexes) == (32, (7, 15, 23, 31))
    assert block_index(family, real, _MIDDLE, 32) == 15
    assert block_index(family, real, _DEEP, 32) == 31
    llava = tiny_model("llava").config
    assert block_index(family_of(llava), llava, _MIDDLE, 24) == 8
    assert block_index(family, real, Need("tower_hidden", _MIDDLE.layer), 32) == 11  # states are the depth's own


def test_what_is_recorded_of_a_middle_layer_is_the_whole_blocks_attention():
    model = tiny_model("qwen2_5_vl")
    assert list(model.config.vision_config.fullatt_block_indexes) == [2]
    inputs, whole = tiny_inputs(model, [(1, 4, 5)]), Need("tower_attention", 2, "received")
    pixels = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
    with torch.no_grad():
        found = encode(model.model, family_of(model.config), "image", pixels, frozenset({_MIDDLE, whole}))
    values = record_of(found).values
    assert values[_MIDDLE][0].equal(values[whole][0])


@pytest.mark.parametrize(("name", "wanted"), [("llava", "reassigned"), ("qwen2_5_vl", "preserved")])
def test_official_is_what_the_authors_do_on_this_family(name, wanted):
    model = tiny_model(name)
    inputs, pruner = tiny_inputs(model, [(1, 4, 5)]), gp.HiPrune(keep=0.5)
    with torch.no_grad():
        with gp.prune(model, pruner, wanted):
            expected = model(**inputs).logits
        with gp.prune(model, pruner, "official"):
            assert model(**inputs).logits.equal(expected)
        with gp.prune(model, pruner, {"preserved": "reassigned", "reassigned": "preserved"}[wanted]):
            assert not model(**inputs).logits.equal(expected)
    setting = Setting.of("hiprune", keep=0.5, positions="official")
    assert str(setting.policy(pruner, model.config)) == wanted


def test_every_official_policy_by_model_is_one():
    for name in pruner_names():
        for policy in pruner_class(name).official_by_model.values():
            assert str(parse_policy("official", policy)) in PLAIN


def test_a_stage_is_told_the_model_before_any_work(monkeypatch):
    """Also where the layer that its authors use does not exist."""
    model = tiny_model("llava", layers=4)
    monkeypatch.setattr(layers.Layers, "active", None)
    with (
        pytest.raises(gp.GroundPruneError, match=r"ivc-prune prunes at decoder layers \[9\]"),
        gp.prune(model, gp.IVCPrune(keep=0.5, layer=9)),
    ):
        pass
