"""mlx-vlm on a CPU or a Mac; the tests run where it is installed (`make test-mlx`)."""

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import pytest

try:
    version("mlx-vlm")
except PackageNotFoundError:
    collect_ignore_glob = ["test_*.py"]


class Endless:
    """In place of mlx-vlm's criteria: no token ends an answer."""

    eos_token_ids = ()

    def __call__(self, token):
        return False

    def reset(self, eos_token_ids=None):
        pass

    add_eos_token_ids = reset


class Pair(NamedTuple):
    """One random Qwen2.5-VL in fp32: in mlx-vlm, with its processor, and in transformers, likewise."""

    mlx: Any
    mlx_processor: Any
    model: Any
    processor: Any


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A checkpoint whose config is that of the Hub, where the LLM's values lie beside the others."""
    from support.engines import save_checkpoint

    folder = save_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("qwen"))
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    flat = text | config | {"rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    config["vision_config"]["model_type"] = "qwen2_5_vl"
    del config["vision_config"]["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(flat))
    return folder


@pytest.fixture
def load(folder):
    """load(): mlx-vlm's model and processor, anew."""
    import mlx_vlm

    def anew():
        model, processor = mlx_vlm.load(str(folder))
        processor.tokenizer.stopping_criteria = Endless()
        return model, processor

    return anew


@pytest.fixture(scope="session")
def pair(folder):
    import mlx_vlm

    import groundprune as gp

    mlx, mlx_processor = mlx_vlm.load(str(folder))
    mlx_processor.tokenizer.stopping_criteria = Endless()
    return Pair(mlx, mlx_processor, *gp.load(folder))
