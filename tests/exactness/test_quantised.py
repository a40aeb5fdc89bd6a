"""What `verify` says of models that compute coarsely, and what its tolerance is from."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import groundprune as gp
from groundprune.cli import main
from groundprune.exactness.arithmetic import TOLERANCE, comparable, measure_arithmetic
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.exactness.verify import CONTROL, _decode
from groundprune.exactness.widening import in_fp32
from groundprune.families import families
from support.quantising import ROUNDED, SHARED, WEIGHTS_ALONE, asked, off_by_one, quantised_pocket

PRUNER = gp.ClsVisual(keep=0.5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", WEIGHTS_ALONE)
def test_quantised_weights_are_proven_as_sharply_as_any(kind, dtype, monkeypatch):
    model, processor = quantised_pocket(kind, dtype=dtype)
    inputs = asked(model, processor)
    before = {name: (id(p), p.dtype) for name, p in model.named_parameters()}
    found = gp.verify(model, inputs, PRUNER, steps=3)
    assert (found.verdict, found.tolerance, found.arithmetic) == ("ok", TOLERANCE, None)
    assert found.control > 10 * CONTROL
    assert {name: (id(p), p.dtype) for name, p in model.named_parameters()} == before
    if dtype == "float32":
        off_by_one(monkeypatch)
        wrong = gp.verify(model, inputs, PRUNER, steps=3)
        assert (wrong.verdict, wrong.arithmetic.across) == ("FAILED", None)
        assert wrong.difference > 50 * wrong.tolerance


@pytest.mark.parametrize("family", ["shikra", "minigpt-v2", "qwen2_5_vl", "gemma3"])
def test_other_families_with_eight_bit_weights(family, monkeypatch):
    quantization = pytest.importorskip("torchao.quantization")
    model = tiny_model(family).to(torch.bfloat16)
    quantization.quantize_(model.get_decoder(), quantization.Int8WeightOnlyConfig())
    inputs = tiny_inputs(model, [(1, 5, 7), (1, 2, 4)])
    assert gp.verify(model, inputs, gp.Spatial(keep=0.4), steps=2).passed
    off_by_one(monkeypatch)
    assert gp.verify(model, inputs, gp.Spatial(keep=0.4), steps=2).verdict == "FAILED"


@pytest.mark.parametrize("kind", SHARED)
def test_scales_that_tokens_share_leave_nothing_to_prove(kind):
    model, processor = quantised_pocket(kind)
    found = gp.verify(model, asked(model, processor), PRUNER, steps=1)
    assert found.difference > TOLERANCE
    assert found.verdict == "inconclusive"
    assert found.arithmetic.across == "model.language_model.layers.0.self_attn.q_proj"
    assert found.arithmetic.across in found.doubt
    assert f"{found.difference:.1e}" in found.doubt


@pytest.mark.parametrize("kind", ROUNDED)
def test_a_scale_for_each_token_rounds_too_coarsely_and_shares_nothing(kind):
    model, processor = quantised_pocket(kind)
    found = gp.verify(model, asked(model, processor), PRUNER, steps=1)
    assert found.arithmetic.across is None
    assert found.tolerance > CONTROL
    assert (found.verdict, "too coarsely" in found.doubt) == ("inconclusive", True)


class Rounding(nn.Linear):
    """Of weights as they are; its inputs are rounded to `bits`, on a scale of each token or of all."""

    bits, shared = 8, False

    def forward(self, x):
        largest = x.abs().amax() if self.shared else x.abs().amax(-1, keepdim=True)
        scale = largest.clamp_min(1e-9) / (2 ** (self.bits - 1) - 1)
        return super().forward((x / scale).round() * scale)


def rounding(bits, shared):
    model = tiny_model("llava", side=12, layers=2)
    for module in model.get_decoder().modules():
        if type(module) is nn.Linear:
            module.__class__, module.bits, module.shared = Rounding, bits, shared
    return model


@pytest.mark.parametrize(("bits", "shared"), [(8, False), (8, True), (14, False)])
def test_what_is_measured_of_a_layer_that_rounds(bits, shared):
    """One step of eight bits is 1/127 of the largest input; of fourteen 64 times less."""
    model = rounding(bits, shared)
    found = measure_arithmetic(model, tiny_inputs(model, [(1, 5, 7)]), lambda given: _decode(model, given, 2))
    step = 1 / (2 ** (bits - 1) - 1)
    assert step / 10 < found.step < 10 * step
    assert (found.across is not None) == shared
    assert found.tolerance >= found.step


def test_a_planted_error_is_told_from_fine_rounding(monkeypatch):
    """The tolerance lies above fp32's and below the error."""
    model = rounding(16, shared=False)
    inputs = tiny_inputs(model, [(1, 5, 7)])
    found = gp.verify(model, inputs, gp.Spatial(keep=0.5), steps=2)
    assert TOLERANCE < found.tolerance < CONTROL
    assert (found.verdict, found.doubt) == ("ok", None)
    assert "behind 1, 7, 64 columns of padding" in found.derivation
    off_by_one(monkeypatch)
    wrong = gp.verify(model, inputs, gp.Spatial(keep=0.5), steps=2)
    assert wrong.verdict == "FAILED"


@pytest.mark.parametrize("family", sorted(families()))
def test_padding_changes_nothing_in_fp32(family):
    """In every family: or a bug there would pass for noise."""
    model = tiny_model(family)
    found = measure_arithmetic(model, tiny_inputs(model, [(1, 5, 7)]), lambda given: _decode(model, given, 1))
    assert found.across is None
    assert found.tolerance < 4 * TOLERANCE


def test_runs_are_compared_until_they_say_different_things():
    def run(said):
        return SimpleNamespace(sequences=torch.tensor(said), logits=tuple(torch.full((2, 3), i) for i in range(3)))

    a = run([[9, 1, 2, 3], [9, 1, 2, 3]])
    assert [len(each) for each in comparable(a, a)] == [3, 3]
    assert [len(each) for each in comparable(run([[9, 1, 2, 3], [9, 1, 7, 3]]), a)] == [2, 2]
    assert [len(each) for each in comparable(run([[9, 4, 2, 3], [9, 1, 2, 3]]), a)] == [1, 1]


def test_codes_in_eight_bits_are_no_numbers_to_be_widened():
    model = nn.Linear(4, 4)
    model.register_buffer("code", torch.ones(4).to(torch.float8_e4m3fn))
    model.to(torch.bfloat16)
    model.code = model.code.to(torch.float8_e4m3fn)
    with in_fp32(model):
        assert model.weight.dtype == torch.float32
        assert model.code.dtype == torch.float8_e4m3fn
    assert model.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(("kind", "code", "says"), [
    ("torchao-int8", 0, "1.0e-05"), ("torchao-int8-per-tensor", 3, "on a scale that tokens share"),
])  # fmt: skip
def test_the_command_says_what_the_tolerance_is_from(kind, code, says, tmp_path, monkeypatch, capsys):
    """Of a folder that was saved quantised."""
    model, processor = quantised_pocket(kind)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    words = ["verify", "--model", str(tmp_path), "--pruner", "spatial", "--keep", "0.5", "--device", "cpu"]
    assert main(words) == code
    assert says in capsys.readouterr().out
    if code:
        assert main([*words, "--json"]) == code
        (row,) = json.loads(capsys.readouterr().out)
        assert row["verdict"] == "inconclusive"
        assert row["arithmetic"]["across"].endswith("q_proj")
