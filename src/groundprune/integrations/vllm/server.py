"""vLLM's own server, with a pruned model in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groundprune.caches import cache_folder
from groundprune.checkpoints.hub import POCKET, source_of
from groundprune.checkpoints.load import read_config
from groundprune.checkpoints.processor import load_processor
from groundprune.checkpoints.prompts import chat_prompt
from groundprune.errors import GroundPruneError
from groundprune.integrations.vllm.image_pruning import ImagePruning
from groundprune.integrations.vllm.limits import fewest_tokens, largest_length, own_length, rotary_length
from groundprune.integrations.vllm.settings import vllm_overrides
from groundprune.pocket.wide_heads import write_wide_heads
from groundprune.pruners import Pruner
from groundprune.version import __version__

OVERRIDES, LENGTH, LIMIT = "--hf-overrides", "--max-model-len", "--limit-mm-per-prompt"
NAME, TEMPLATE = "--served-model-name", "--chat-template"
SEEN = (OVERRIDES, LENGTH, LIMIT, NAME, TEMPLATE)  # the options that are looked at here
FRONT = ["--middleware", "groundprune.integrations.vllm.front.Front"]  # beside the user's own


def engine_folder(model: str | Path) -> str:
    """What vLLM loads for `model`. The embedded one has heads that vLLM's kernels for CPUs lack: its wider copy.

    The copy is written to $XDG_CACHE_HOME/groundprune (by default ~/.cache/groundprune).
    """
    source = source_of(model)
    if str(model) != POCKET:
        return str(source)
    weights = (Path(source) / "model.safetensors").read_bytes()
    target = cache_folder() / f"{model}-wide-{__version__}-{_digest(weights)}"
    try:
        return str(write_wide_heads(Path(source), target))
    except OSError as error:
        raise GroundPruneError(f"{target.parent}: cannot be written ({error.strerror or error})") from error


def chat_template(model: str | Path) -> str | None:
    """A file with the checkpoint's chat template behind the tokenizer's first token; None where it says it itself.

    vLLM puts no special tokens around what a chat template gives. LLaVA's leaves <s> to the tokenizer.
    """
    processor = load_processor(source_of(model), read_config(model))
    template, tokenizer = getattr(processor, "chat_template", None), processor.tokenizer
    begins = bool(tokenizer.bos_token) and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    if not isinstance(template, str) or not begins or chat_prompt(processor, "a").startswith(tokenizer.bos_token):
        return None
    whole = "{{ bos_token }}" + template
    file = cache_folder() / f"chat-{_digest(whole.encode())}.jinja"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(whole, encoding="utf-8")
    except OSError as error:
        raise GroundPruneError(f"{file}: cannot be written ({error.strerror or error})") from error
    return str(file)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=6).hexdigest()


def engine_defaults(model: str | Path) -> dict[str, Any]:
    """Arguments of an engine that the user may change.

    vLLM would narrow the embedded model's weights to bfloat16. Of a folder with Mistral's own files beside those of
    transformers it would take the former, which know nothing of our settings.
    """
    if str(model) == POCKET:
        return {"dtype": "float32"}
    if read_config(model).model_type == "mistral3":
        return dict.fromkeys(("config_format", "load_format", "tokenizer_mode"), "hf")
    return {}


def fitting_length(model: str | Path, overrides: Mapping[str, Any], images: int) -> int | None:
    """The largest max_model_len at which a prompt with so many images stays on the rotary table.

    None where the model's own limit is as small. Raises GroundPruneError where so many images would not fit.
    """
    config = read_config(model)
    for key, value in overrides.items():
        setattr(config, key, value)
    pruning = ImagePruning(config)
    length = largest_length(pruning, images, rotary_length(pruning))
    if length <= images * fewest_tokens(pruning):
        raise GroundPruneError(f"{images} images cannot stay on the model's rotary table: lower {LIMIT}")
    return length if length < own_length(pruning) else None


def serve_arguments(
    model: str, pruner: Pruner, positions: str = "preserved", extra: Sequence[str] = (), name: str | None = None
) -> list[str]:
    """The arguments of `vllm serve` for a pruned model; `extra` are the user's own, which go before ours.

    Where the user says nothing about them, a prompt may hold one image, and is as long as its positions allow.
    Raises GroundPruneError as `vllm_overrides` does, and for options that contradict what is served.
    """
    words = _split(extra)
    ours = vllm_overrides(model, pruner, positions, name=name)
    theirs = _json(words, OVERRIDES)
    limit, images = _one_image(_json(words, LIMIT))
    if theirs.keys() & ours.keys():
        raise GroundPruneError(f"{OVERRIDES} may not set {sorted(theirs.keys() & ours.keys())}, which pruning does")
    arguments = ["serve", engine_folder(model), *words, OVERRIDES, json.dumps(theirs | ours)]
    if source_of(model) != model and not _given(words, NAME):
        arguments += [NAME, model]
    arguments += [LIMIT, json.dumps(limit), *FRONT]
    if not _given(words, LENGTH):
        length = fitting_length(model, ours, images)
        arguments += [] if length is None else [LENGTH, str(length)]
    template = None if _given(words, TEMPLATE) else chat_template(model)
    arguments += [] if template is None else [TEMPLATE, template]
    for key, value in engine_defaults(model).items():
        option = f"--{key.replace('_', '-')}"
        arguments += [] if _given(words, option) or _given(words, f"--{key}") else [option, value]
    return arguments


def _one_image(limit: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The limits with one image where they do not say how many, and how many.

    Raises GroundPruneError for what is no number of images.
    """
    image = limit.get("image", 1)
    image = {"count": 1, **image} if isinstance(image, dict) else image
    count = image["count"] if isinstance(image, dict) else image
    if type(count) is not int or count < 0:  # JSON's true is an int, too
        raise GroundPruneError(f"{LIMIT}: image is a whole number of at least 0 (got {json.dumps(count)})")
    return {**limit, "image": image}, count


def _split(extra: Sequence[str]) -> list[str]:
    """--name=value as two words, and vLLM's --name_of as --name-of, for the options that are looked at here.

    Raises GroundPruneError for what could hide one of them.
    """
    words: list[str] = []
    for word in extra:
        option, equals, value = word.partition("=")
        known = option.replace("_", "-")
        if known.startswith((f"{OVERRIDES}.", f"{LIMIT}.")):
            raise GroundPruneError(f"{option}: give {known.partition('.')[0]} as one JSON object")
        if known == "--config":
            raise GroundPruneError("--config: give the options of the file on the command line, where they are seen")
        if known in SEEN:
            words += [known, value] if equals else [known]
        elif len(known) > 2 and (meant := [name for name in SEEN if name.startswith(known)]):
            raise GroundPruneError(f"{option}: write {' or '.join(meant)} in full, so that it is seen here")
        else:
            words.append(word)
    return words


def _given(words: Sequence[str], option: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in words)


def _json(words: list[str], option: str) -> dict[str, Any]:
    """The JSON object that follows an option, taken out of `words`; empty where it is not there."""
    if option not in words:
        return {}
    at = words.index(option)
    try:
        value = json.loads(words[at + 1])
    except (IndexError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise GroundPruneError(f"{option} takes a JSON object (got {' '.join(words[at + 1 : at + 2]) or 'nothing'})")
    del words[at : at + 2]
    if option in words:
        raise GroundPruneError(f"{option} is there twice: give one JSON object")
    return value
