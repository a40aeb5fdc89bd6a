"""Which layers of a decoder have no keys."""

from __future__ import annotations

from typing import Any


def linear_layers(config: Any) -> list[int]:
    """The decoder layers with linear attention.

    Args:
        config: a model's.

    Returns:
        Their indices. A state takes the place of keys there, so that no mask hides a token.
    """
    types = getattr(config.get_text_config(), "layer_types", None) or []
    return [index for index, kind in enumerate(types) if kind == "linear_attention"]
