"""`evaluate` of a model that accelerate spreads: the same answers, and the same run to resume."""

import pytest
import torch

from groundprune.checkpoints.load import load
from groundprune.cli import main
from groundprune.evaluation import evaluate, read_rows, read_summary
from groundprune.evaluation.devices import input_device
from groundprune.evaluation.identity import weights_fingerprint
from support.checkpoints import save_tiny

QUICK = {
    "limit": 2,
    "pruners": ["cls-visual", "fastv"],
    "keeps": [0.5],
    "positions": ["preserved"],
    "progress": False,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny("llava", tmp_path_factory.mktemp("model"))


def on_disk(model, *parts):
    """A map that keeps these parts on the disk and the rest in memory."""
    names = [name for name, _ in model.named_children() if name != "model"]
    names += [f"model.{name}" for name, _ in model.model.named_children() if name != "language_model"]
    language = model.model.language_model
    names += [f"model.language_model.{name}" for name, _ in language.named_children() if name != "layers"]
    names += [f"model.language_model.layers.{i}" for i in range(len(language.layers))]
    assert set(parts) <= set(names)
    return {name: "disk" if name in parts else "cpu" for name in names}


@pytest.mark.parametrize(
    "parts",
    [["model.language_model.layers.1"], ["model.vision_tower", "model.language_model.embed_tokens", "lm_head"]],
    ids=["a layer", "both ends"],
)
def test_weights_on_the_disk(tiny, parts, tmp_path, monkeypatch):
    whole, _ = load(tiny, "cpu")
    device_map = on_disk(whole, *parts)
    model, _ = load(tiny, device_map=device_map, offload_folder=tmp_path / "offload", dtype="float32")
    assert any(weight.is_meta for weight in model.state_dict().values())
    assert weights_fingerprint(model) == weights_fingerprint(whole)
    assert input_device(model) == torch.device("cpu")

    evaluate(tiny, **QUICK, out=tmp_path / "whole", device="cpu")
    monkeypatch.setattr("groundprune.evaluation.driver.load", lambda *given, **placed: (model, load(tiny, "cpu")[1]))
    evaluate(tiny, **QUICK, out=tmp_path / "spread", device_map=device_map)
    rows = read_rows(tmp_path / "spread" / "samples.jsonl")
    assert rows == read_rows(tmp_path / "whole" / "samples.jsonl")
    assert read_summary(tmp_path / "spread").run == read_summary(tmp_path / "whole").run


def test_the_map_reaches_the_loader(tiny, tmp_path, monkeypatch):
    given = []

    def noted(*words, **options):
        given.append(options)
        return load(*words, **options)

    monkeypatch.setattr("groundprune.evaluation.driver.load", noted)
    words = ["evaluate", "--model", str(tiny), "--limit", "1", "--pruner", "spatial", "--keep", "0.5"]
    assert main([*words, "--positions", "preserved", "--device-map", "auto", "--dtype", "float32"]) == 0
    assert given == [{"dtype": "float32", "device_map": "auto"}]
