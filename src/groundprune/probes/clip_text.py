"""A CLIP text tower with the projections of both sides, from a checkpoint folder or a Hub id."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from groundprune.errors import GroundPruneError, first_line
from groundprune.signals import TextEmbedder


class ClipTextTower(TextEmbedder):
    """Embeds text, and the states of a CLIP vision tower, into CLIP's joint space.

    source: a folder or Hub id of a full CLIP checkpoint: `visual_projection` and `post_layernorm` of the vision
    side come from it too, since they were trained together. Raises GroundPruneError where it is none.
    """

    def __init__(self, source: str | Path):
        try:
            config: Any = CLIPConfig.from_pretrained(source)
            clip: Any = CLIPModel.from_pretrained(source, config=config, dtype=torch.float32).eval()
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
        except Exception as error:  # whatever a damaged folder makes the libraries raise
            raise GroundPruneError(f"no CLIP checkpoint at {str(source)!r}: {first_line(error)}") from error
        self.source = str(source)
        self._text_model, self._text_projection = clip.text_model, clip.text_projection
        self._layernorm, self._visual_projection = clip.vision_model.post_layernorm, clip.visual_projection
        self._limit = config.text_config.max_position_embeddings
        self._known: dict[tuple[str, bool], Tensor] = {}

    def text(self, text: str) -> Tensor:
        """[1, E]; text beyond the tower's length is cut, as CLIP does."""
        return self._embedded(text, truncation=True, max_length=self._limit)

    def segments(self, text: str) -> Tensor:
        """[M, E]; the last piece is padded with zeros. Only the first has a start token, only the last an end token,
        as in CDPruner's code.
        """
        return self._embedded(text)

    @torch.no_grad()
    def _embedded(self, text: str, **limit: Any) -> Tensor:
        key = (text, not limit)
        if key not in self._known:
            inputs = self._tokenizer(text, return_tensors="pt", verbose=False, **limit)
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            if ids.shape[1] > self._limit:
                rest = -ids.shape[1] % self._limit
                ids, mask = (nn.functional.pad(x, (0, rest)).view(-1, self._limit) for x in (ids, mask))
            self._known[key] = self._text_projection(
                self._text_model(input_ids=ids, attention_mask=mask).pooler_output
            )
        return self._known[key]

    @torch.no_grad()
    def patches(self, hidden: Tensor) -> Tensor:
        """[N, C] -> [N, E]. Raises GroundPruneError where the widths do not fit together."""
        width = self._visual_projection.in_features
        if hidden.shape[-1] != width:
            raise GroundPruneError(
                f"the text tower {self.source!r} belongs to a vision tower of width {width}; "
                f"the model's has {hidden.shape[-1]}"
            )
        if self._visual_projection.weight.device != hidden.device:
            self._layernorm.to(hidden.device)
            self._visual_projection.to(hidden.device)
        return self._visual_projection(self._layernorm(hidden.float()))


def find_text_tower(text_tower: str | Path | TextEmbedder | None, model: Any) -> TextEmbedder | None:
    """The tower that the caller named; else the one that lies in the checkpoint's own `clip` folder; else None."""
    if isinstance(text_tower, TextEmbedder):
        return text_tower
    if text_tower is not None:
        return _loaded(str(text_tower))
    source = getattr(model.config, "_name_or_path", "")
    beside = Path(source) / "clip"
    return _loaded(str(beside)) if source and (beside / "config.json").is_file() else None


@functools.lru_cache(maxsize=2)
def _loaded(source: str) -> ClipTextTower:
    return ClipTextTower(source)
