"""What happens where a request enters an engine: its images are counted, and its answer ends on the rotary table.

The processor knows what an image loses, but no request; vLLM's input processor knows the request, but no more than
the name of an image that is cached. So the processor leaves word with the placeholders, which no cache drops.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vllm.exceptions import VLLMClientError
from vllm.multimodal.processing import PromptUpdateDetails

from groundprune.errors import GroundPruneError
from groundprune.integrations.vllm.counters import count
from groundprune.integrations.vllm.image_pruning import ImagePruning
from groundprune.integrations.vllm.settings import KEY
from groundprune.integrations.vllm.tiled import TiledImage, units_of
from groundprune.tokens.layout import VisualUnit


class Refused(GroundPruneError, VLLMClientError):
    """Of a request, behind its rendering: vLLM's server answers its own errors alone with their line, and a 400."""


class SeenImage(NamedTuple):
    """pruner: its label. kept, dropped: visual tokens. shift: by how much positions behind it exceed its slots."""

    pruner: str
    kept: int
    dropped: int
    shift: int

    @staticmethod
    def of(pruning: ImagePruning, unit: VisualUnit | TiledImage) -> SeenImage:
        slots = pruning.count(unit)
        text = len(unit) - sum(map(len, units_of(unit)))
        shift = 0 if pruning.renumbered else pruning.extent(unit) - slots
        return SeenImage(pruning.pruner.label, slots - text, len(unit) - slots, shift)


@dataclass
class TellingUpdate(PromptUpdateDetails):
    """The placeholders of an image, and what it lost."""

    image: SeenImage | None = None

    @staticmethod
    def of(details: PromptUpdateDetails, image: SeenImage) -> TellingUpdate:
        return TellingUpdate(details.full, details.is_embed, image)


def guard() -> None:
    """From now on, every request that enters an engine of this process is looked at first."""
    from vllm.v1.engine.input_processor import InputProcessor

    stock = InputProcessor.process_inputs
    if hasattr(stock, "__wrapped__"):  # a plugin may be loaded again
        return

    def admitted(self: Any, given: Mapping[str, Any], request: Any) -> Any:
        if "type" not in given and KEY in (given.get("mm_processor_kwargs") or {}):
            # vLLM renders it on the way, and keeps that to itself.
            raise Refused(f"{KEY} of a prompt that was not rendered: use LLM.generate or vLLM's renderer")
        images: Sequence[SeenImage] = getattr(given.get("mm_kwargs"), "seen", ())
        if images:
            limits = self.renderer.mm_processor.info.requests.limits
            keep_on_table(request, images, limits.reach)
            for image in images:
                count(image.pruner, image.kept, image.dropped)
        return request

    @functools.wraps(stock)
    def process_inputs(self: Any, request_id: str, prompt: Any, *args: Any, **options: Any) -> Any:
        given: Mapping[str, Any] = prompt if isinstance(prompt, Mapping) else {}
        try:
            return admitted(self, given, stock(self, request_id, prompt, *args, **options))
        except Exception:
            forget(self.renderer.mm_processor_cache, given)
            raise

    InputProcessor.process_inputs = process_inputs


def forget(cache: Any, prompt: Mapping[str, Any]) -> None:
    """Of a prompt that is refused: its images did not reach the engine, which vLLM's frontend takes to hold them.

    The next request with one of them would come without its pixels, and fail.
    """
    if cache is not None:
        for hashes in (prompt.get("mm_hashes") or {}).values():
            for each in hashes:
                cache.invalidate(each)


def check_reach(slots: int, images: Iterable[SeenImage], reach: int) -> None:
    """Raises GroundPruneError where a prompt alone takes all positions. reach: how many there are."""
    taken = slots + sum(image.shift for image in images)
    if taken >= reach:
        raise GroundPruneError(
            f"the prompt's original positions reach {taken - 1}, and those of the model end at {reach - 1}: "
            "shorten the prompt, or drop an image"
        )


def keep_on_table(request: Any, images: Iterable[SeenImage], reach: int) -> None:
    """Shorten a request's answer to the positions that there are, see `check_reach`.

    Raises Refused where fewer are left than it asks for at least.
    """
    room = reach - len(request.prompt_token_ids) - sum(image.shift for image in images)
    sampling = request.sampling_params
    if sampling is not None and sampling.max_tokens > room:
        if sampling.min_tokens > room:
            raise Refused(f"min_tokens is at most {room} here, where the model's positions end")
        sampling.max_tokens = room
