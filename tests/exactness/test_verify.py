import json
import re
from pathlib import Path

import pytest
import torch

import groundprune as gp
from groundprune.cli import main
from groundprune.cli import verify as command
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.exactness.verify import relative_difference
from groundprune.tokens.positions import Preserved

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def model():
    return tiny_model("llava", side=24)


@pytest.mark.parametrize("pruner", [gp.ClsVisual, gp.Random, gp.Spatial])
def test_the_three_facts_hold_on_24_x_24_tokens(model, pruner):
    inputs = tiny_inputs(model, [(1, 5, 7), (2, 2, 4), (1, 9, 3)])
    found = gp.verify(model, inputs, pruner(keep=0.5))
    assert found.keep_all_exact
    assert found.difference <= 1e-5
    assert found.same_tokens
    assert found.control > 1e-2
    assert found.passed
    assert found.kept == [(288, 576), (576, 1152), (288, 576)]


def test_beams_equal_the_masked_oracle_on_24_x_24_tokens(model):
    inputs = tiny_inputs(model, [(1, 5, 7), (2, 2, 4), (1, 9, 3)])
    options = {"max_new_tokens": 4, "num_beams": 3, "num_return_sequences": 3, "do_sample": False}
    with gp.prune(model, gp.ClsVisual(keep=0.5)) as run:
        pruned = model.generate(**inputs, **options)
    with hide(model, hidden_columns(run.prompt)):
        wanted = model.generate(**inputs, **options)
    with gp.prune(model, gp.ClsVisual(keep=0.5), "reassigned"):
        control = model.generate(**inputs, **options)
    assert pruned.equal(wanted)
    assert not control.equal(wanted)


def test_a_wrong_position_is_caught(model, monkeypatch):
    """One id off by one, on one token: the difference leaves the tolerance."""

    def off_by_one(self, row):
        ids = row.original.clone()
        ids[:, row.slot[len(row.kept) // 2]] += 1
        return ids, 0

    monkeypatch.setattr(Preserved, "ids", off_by_one)
    found = gp.verify(model, tiny_inputs(model, [(1, 5, 7)]), gp.Spatial(keep=0.5), steps=2)
    assert found.difference > 1e-5
    assert not found.passed


def test_a_decode_shift_that_is_off_by_one_is_caught(model, monkeypatch):
    """`generate` goes on from the last id that it was given."""
    late = lambda self, row: (row.original + (row.column == row.column[-1]), 1)  # noqa: E731
    monkeypatch.setattr(Preserved, "ids", late)
    found = gp.verify(model, tiny_inputs(model, [(1, 5, 7)]), gp.Spatial(keep=0.5), steps=2)
    assert found.difference > 1e-5


def test_a_weak_control_is_inconclusive_and_no_failure(monkeypatch, capsys):
    """Queries close to 0: attention is nearly uniform and reads no positions, so wrong ones would look right."""
    model = tiny_model("llava", side=6)
    for name, weight in model.named_parameters():
        if "language_model" in name and "q_proj" in name:
            weight.data *= 1e-3
    inputs = tiny_inputs(model, [(1, 5, 7)])
    found = gp.verify(model, inputs, gp.Spatial(keep=0.5), steps=2)
    assert found.exact
    assert 0 < found.control < 1e-2
    assert (found.verdict, found.passed) == ("inconclusive", False)

    monkeypatch.setattr(command, "subjects", lambda *_: [("weak", model, inputs)])
    words = ["verify", "--pruner", "spatial", "--keep", "0.5"]
    assert main(words) == 3
    said = capsys.readouterr().out
    assert "FAILED" not in said
    assert "a smaller --keep" in said
    assert main([*words, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == "inconclusive"

    far = lambda self, row: (row.original + 10**4 * (row.column == row.column[-1]), 0)  # noqa: E731
    monkeypatch.setattr(Preserved, "ids", far)  # exact no more
    assert main(words) == 1
    capsys.readouterr()
    assert main(["verify", "--keep", "1"]) == 3, "every pruner was skipped"
    assert "nothing was proven" in capsys.readouterr().err


def test_nan_is_infinitely_far():
    number, none = torch.ones(2), torch.tensor([1.0, float("nan")])
    assert relative_difference([none], [number]) == relative_difference([number], [none]) == float("inf")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_measured_in_fp32_and_left_as_it_was(dtype):
    model = tiny_model("llava", side=24).to(dtype)
    inputs = tiny_inputs(model, [(1, 5, 7)])
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    before = {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in model.state_dict().items()}
    found = gp.verify(model, inputs, gp.Spatial(keep=0.5), steps=2)
    assert found.passed
    assert {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in model.state_dict().items()} == before
    with pytest.raises(gp.GroundPruneError, match="dropped nothing"):
        gp.verify(model, inputs, gp.Spatial(keep=1))
    assert {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in model.state_dict().items()} == before


def test_nothing_dropped_proves_nothing(model):
    with pytest.raises(gp.GroundPruneError, match="dropped nothing"):
        gp.verify(model, tiny_inputs(model, [(1, 2, 2)]), gp.Spatial(keep=1))


def test_the_readme_snippets_run_as_they_stand():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert blocks
    torch.manual_seed(0)
    scope: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), scope)
    with gp.prune(scope["model"], scope["FeatureNorm"](keep=0.25)) as run:
        scope["model"].generate(**scope["inputs"], max_new_tokens=2, do_sample=False)
    features = scope["model"].get_image_features(pixel_values=scope["inputs"]["pixel_values"]).pooler_output
    assert run.kept[0].equal(features[0].norm(dim=-1).topk(36).indices.sort().values)
