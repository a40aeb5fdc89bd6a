"""What a model family says beside where its tokens lie: how it is fed, how it says boxes, a tiny model of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

from groundprune.families.grounding import Grounding
from groundprune.families.tiny_parts import TinyVisuals


class Described:
    """Base of `Family`."""

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    grounding: ClassVar[Grounding]

    def grid_columns(self, config: Any, inputs: dict[str, Any]) -> int | None:
        """How many placeholders the images have whose grids are among the inputs; None where ids need no grids."""
        return None

    def weightless(self, config: Any) -> Any:
        """What stands in for a base model of this config where only `units` and `to_tokens` are called."""
        return SimpleNamespace(config=config)

    # How it is fed

    def prepare_processor(self, processor: Any) -> Any:
        """The checkpoint's processor with the preprocessing that `grounding.frame` describes."""
        return processor

    # A tiny model of it, for proofs without a download

    def tiny_config(self, layers: int = 4, **options: Any) -> Any:
        """Of the real config class. layers: of the LLM; options: the family's own."""
        raise NotImplementedError

    def tiny_visuals(self, config: Any) -> TinyVisuals:
        """What may stand in a prompt of a model of this (tiny) config."""
        raise NotImplementedError
