"""The Llama base of both models: its tokenizer, its config, the names of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, PreTrainedTokenizerFast

from groundprune.errors import GroundPruneError
from groundprune.models.convert.weights import check_numbers, read_json, refusing

GROWN = ("model.embed_tokens.weight", "lm_head.weight")  # have one row per token
_COUNTS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings",
)  # fmt: skip
_NOT_OF_THE_MODEL = {"architectures", "dtype", "transformers_version", "_name_or_path"}  # but of a file


def llama_base(folder: Path, settings_from: Path, extra_tokens: Sequence[str]) -> tuple[Any, LlamaConfig]:
    """(tokenizer with the extra tokens, config for it) of a Llama base in Hugging Face's layout.

    settings_from: folder whose config.json counts. Raises GroundPruneError where tokenizer and base do not belong
    together, or the tokenizer has no SentencePiece prefix.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise GroundPruneError(
            f"{folder}: has no tokenizer.json (the repositories of LLaMA and Llama 2 in Hugging Face's layout do)"
        )
    given = read_json(settings_from / "config.json")
    vocabulary = read_json(folder / "config.json").get("vocab_size")
    check_numbers(settings_from / "config.json", given, _COUNTS, ("rms_norm_eps", "rope_theta"))
    with refusing(f"{file}: no tokenizer can be made of it"):
        tokenizer: Any = PreTrainedTokenizerFast(
            tokenizer_file=str(file), unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>",
            padding_side="left", clean_up_tokenization_spaces=False,
        )  # fmt: skip
        tokenizer.add_tokens(list(extra_tokens), special_tokens=True)
        pieces = tokenizer.tokenize("a")
    if not isinstance(vocabulary, int) or len(tokenizer) != vocabulary + len(extra_tokens):
        raise GroundPruneError(
            f"{folder}: config.json says a vocabulary of {vocabulary}, tokenizer.json holds "
            f"{len(tokenizer) - len(extra_tokens)}: not the base, or not its tokenizer"
        )
    if not pieces or not pieces[0].startswith("▁"):
        raise GroundPruneError(f"{file}: puts no SentencePiece prefix in front of a text, as Llama's tokenizer does")
    known = {*LlamaConfig().to_dict(), "rope_theta", "rope_scaling"} - _NOT_OF_THE_MODEL
    kept = {name: value for name, value in given.items() if name in known}
    # The ids in old configs are often wrong (-1, 0); the tokenizer's are those that were trained.
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    with refusing(f"{settings_from / 'config.json'}: no config of a Llama"):
        return tokenizer, LlamaConfig(**{**kept, **ids, "vocab_size": len(tokenizer)})


def is_rotary_table(name: str) -> bool:
    """Old checkpoints hold the rotary frequencies as buffers; a model computes them itself."""
    return name.endswith("rotary_emb.inv_freq")


def llama_name(name: str) -> str:
    """The name that a LlamaForCausalLM's tensor has in the result."""
    return name if name.startswith("lm_head.") else name.replace("model.", "model.language_model.", 1)
