"""What happens where a request enters an engine: its images are counted, and its answer ends on the rotary table.

The processor knows what an image loses, but no request; vLLM's input processor knows the request, but no more than
the name of an image that is cached. So the processor leaves word with the placeholders, which no cache drops.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vllm.multimodal.processing import PromptUpdateDetails

from groundprune.errors import GroundPruneError
from groundprune.integrations.vllm.counters import count
from groundprune.integrations.vllm.image_pruning import ImagePruning
from groundprune.integrations.vllm.settings import KEY
from groundprune.integrations.vllm.tiled import TiledImage, units_of
from groundprune.tokens.layout import VisualUnit


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

    @functools.wraps(stock)
    def process_inputs(self: Any, request_id: str, prompt: Any, *args: Any, **options: Any) -> Any:
        request = stock(self, request_id, prompt, *args, **options)
        given: Mapping[str, Any] = prompt if isinstance(prompt, Mapping) else {}
        if "type" not in given and KEY in (given.get("mm_processor_kwargs") or {}):
            # vLLM renders it on the way, and keeps that to itself.
            raise GroundPruneError(f"{KEY} of a prompt that was not rendered: use LLM.generate or vLLM's renderer")
        images: Sequence[SeenImage] = getattr(given.get("mm_kwargs"), "seen", ())
        if images:
            limits = self.renderer.mm_processor.info.requests.limits
            keep_on_table(request, sum(image.shift for image in images), limits.reach)
            for image in images:
                count(image.pruner, image.kept, image.dropped)
        return request

    InputProcessor.process_inputs = process_inputs


def keep_on_table(request: Any, shift: int, reach: int) -> None:
    """Shorten a request's answer to the positions that there are.

    shift: by how much the positions behind its images exceed their slots. reach: how many positions there are. Raises
    GroundPruneError where the prompt alone takes them all.
    """
    taken = len(request.prompt_token_ids) + shift
    room = reach - taken
    if room < 1:
        raise GroundPruneError(
            f"the prompt's original positions reach {taken - 1}, and those of the model end at {reach - 1}: "
            "shorten the prompt, or drop an image"
        )
    sampling = request.sampling_params
    if sampling is not None and sampling.max_tokens > room:
        if sampling.min_tokens > room:
            raise GroundPruneError(f"min_tokens is at most {room} here, where the model's positions end")
        sampling.max_tokens = room
