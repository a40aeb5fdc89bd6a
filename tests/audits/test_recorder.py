"""The recorder: what it needs, what it leaves, what it reads in each family, and its file."""

import ast
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import groundprune as gp
from groundprune.audits import recorder as module
from groundprune.audits.recorder import Recorder, _Layer
from groundprune.audits.recordings import read_recording
from groundprune.audits.verdicts import judge
from groundprune.exactness.tiny import tiny_inputs, tiny_model, tiny_of
from groundprune.families import families, family_of
from groundprune.families.linear import linear_layers
from groundprune.families.tiny_parts import IMAGE
from support.families import model_of
from support.generating import snapshot
from support.planted import PLANTS, call


def test_it_stands_alone():
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert names == {"__future__", "contextlib", "functools", "inspect", "typing", "torch"}


@pytest.mark.parametrize("family", families())
def test_measured_positions_are_those_of_the_family(family):
    model = model_of(family)
    inputs = tiny_inputs(model, [(1, 5, 7), (1, 3, 4)])
    recorder = Recorder(model)
    with torch.no_grad(), recorder.recording("reference"):
        model(**inputs)
    expected = family_of(model.config).positions(model.model, inputs).permute(1, 2, 0)
    (one,) = recorder.runs["reference"]
    real = inputs["attention_mask"].bool()
    for index, layer in enumerate(one["layers"]):
        if index in linear_layers(model.config):
            assert (layer["kernels"], layer["position"]) == (["linear"], None)
            continue
        assert (layer["position"][real] - expected[real]).abs().max() < 1e-3
        assert layer["error"][real].max() < 1e-3


def text_model(kind):
    sizes = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 50, "head_dim": 16, "pad_token_id": 0,
    }  # fmt: skip
    more = {"gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]}}.get(kind, {})
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more)).eval()


@pytest.mark.parametrize("kind", ["phi3", "glm", "qwen3", "gemma3_text"])
def test_decoders_of_other_kinds(kind):
    """Joined projections; dimensions in pairs, half of them; a norm of keys; other frequencies by layer."""
    model = text_model(kind)
    recorder = Recorder(model)
    with torch.no_grad(), recorder.recording("reference"):
        model(input_ids=torch.randint(2, 50, (2, 30)))
    (one,) = recorder.runs["reference"]
    for layer in one["layers"]:
        assert (layer["position"][..., 0] - torch.arange(30)).abs().max() < 1e-3


def test_keys_that_are_projected_by_group():
    """InternLM2: per key head its queries, itself, its values."""
    layer = object.__new__(_Layer)
    layer.name, layer.size = "wqkv", 3
    layer.attention = SimpleNamespace(num_heads=4)
    parts = torch.arange(8.0)[:, None].expand(8, 3)  # q q k v, q q k v
    assert layer.keys(parts.reshape(1, 1, 24))[0, 0, :, 0].tolist() == [2, 6]


def test_scaled_rotations_are_read_by_the_models_own_frequencies():
    config = family_of(tiny_model("llava").config).tiny_config()
    config.text_config.rope_parameters = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
    config.text_config.rope_parameters["original_max_position_embeddings"] = 1024
    model = tiny_of(config)
    found = gp.audit(call(PLANTS["ids gathered"][0]()), model, tiny_inputs(model, [(1, 5, 7)]))
    assert found.verdict == "preserved"


def test_a_rotation_that_is_none_is_not_guessed_at():
    model = tiny_model("llava")

    def forward(x, position_ids):
        turn = torch.randn(*position_ids.shape, 16, generator=torch.Generator().manual_seed(0))
        return turn.cos(), turn.sin()

    def other(model, inputs):
        rotary, model.model.language_model.rotary_emb.forward = model.model.language_model.rotary_emb, forward
        try:
            model(**inputs)
        finally:
            del rotary.forward

    found = gp.audit(other, model, tiny_inputs(model, [(1, 5, 7)]))
    assert found.verdict.startswith("could not tell: no known rotation explains 48 positions of layers 0 to 3")
    assert found.exit_code == 3
    with pytest.raises(gp.GroundPruneError, match="could not tell"):
        gp.check(other, model, tiny_inputs(model, [(1, 5, 7)]))


def test_a_kernel_that_is_no_torch_function_is_seen():
    def flash(module, query, key, value, attention_mask, **kwargs):
        weights = torch.einsum("bhqd,bhkd->bhqk", query, key.repeat_interleave(2, 1)).softmax(-1)  # not causal
        return torch.einsum("bhqk,bhkd->bqhd", weights, value.repeat_interleave(2, 1)), None

    model = tiny_model("llava")
    inputs = tiny_inputs(model, [(1, 5, 7)])
    model(**inputs)
    ALL_ATTENTION_FUNCTIONS["flash_planted"] = flash

    def switched(model, inputs):
        for layer in model.get_decoder().layers:
            layer.self_attn.config._attn_implementation = "flash_planted"
        try:
            model(**inputs)
        finally:
            model.get_decoder().layers[0].self_attn.config._attn_implementation = "sdpa"

    try:
        before = snapshot(model)
        found = gp.audit(switched, model, inputs)
        assert snapshot(model) == before
    finally:
        del ALL_ATTENTION_FUNCTIONS["flash_planted"]
    assert not ALL_ATTENTION_FUNCTIONS._local_mapping
    assert {kinds[0] for kinds in found.kernels} == {"flash"}
    assert found.verdict == "nothing pruned"


def test_an_error_inside_leaves_nothing_behind():
    model = model_of("llava")
    inputs = tiny_inputs(model, [(1, 5, 7)])
    model(**inputs)
    before = snapshot(model)

    def breaks(model, inputs):
        model(**inputs)
        assert snapshot(model) != before
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gp.audit(breaks, model, inputs)
    assert snapshot(model) == before


def test_a_result_is_there_when_the_context_has_been_left():
    model = model_of("llava")
    with gp.auditing(model, tiny_inputs(model, [(1, 5, 7)])) as found:
        with pytest.raises(gp.GroundPruneError, match="has been left"):
            _ = found.result
        model(**tiny_inputs(model, [(1, 5, 7)]))
    assert found.result.verdict == "nothing pruned"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    model = model_of("llava")
    inputs, path = tiny_inputs(model, [(1, 5, 7)]), tmp_path_factory.mktemp("audit") / "run.audit"
    recorder = Recorder(model)
    with torch.no_grad(), recorder.recording("reference"):
        model(**inputs)
    with recorder.recording("audited"):
        call(PLANTS["rows dropped, ids from arange"][0]())(model, inputs)
    recorder.save(path, image_token=IMAGE, grid=(4, 9))
    return recorder, path


def test_a_recording_survives_its_file(recorded):
    recorder, path = recorded
    there, here = (judge(each)[0] for each in (read_recording(path), recorder.recorded()))
    assert there == here
    assert there.verdict.startswith("not preserved: visual ids renumbered; text behind them moved up by 20")
    assert there.rows[0].grid[10] == (0, 0, 1, 1)  # as the recording says


def test_which_slots_are_visual_is_seen_without_being_told(recorded):
    found = read_recording(recorded[1])
    told = judge(found)[0]
    assert judge({**found, "facts": {}})[0].verdict == told.verdict


class Harm:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps(Harm()), "is no recording"), (b"", "is no recording"), (b"text", "is no recording"),
        (None, "no recording"),
    ],
    ids=["pickle", "empty", "text", "missing"],
)  # fmt: skip
def test_what_is_no_recording_is_refused(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.audit"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(gp.GroundPruneError, match=said) as raised:
        read_recording(path)
    assert "\n" not in str(raised.value)
    assert not Path("harmed").exists()


def test_a_torch_file_that_would_run_code_is_refused(tmp_path, monkeypatch, recorded):
    monkeypatch.chdir(tmp_path)
    torch.save({**recorded[0].recorded(), "facts": Harm()}, "run.audit")
    with pytest.raises(gp.GroundPruneError, match="more than tensors"):
        read_recording("run.audit")
    assert not Path("harmed").exists()


def test_half_a_recording_is_refused(tmp_path, recorded):
    whole = recorded[0].recorded()
    for change, said in (
        ({"runs": {"reference": whole["runs"]["reference"]}}, "no decoder layer ran in the 'audited' run"),
        ({"version": 99}, "version 99"),
        ({"format": "else"}, "no recording of groundprune's recorder"),
    ):
        torch.save({**whole, **change}, tmp_path / "half.audit")
        with pytest.raises(gp.GroundPruneError, match=said):
            read_recording(tmp_path / "half.audit")
