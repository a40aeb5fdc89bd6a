"""What a pruner may score by: the signals of one prompt row, lazy, each computed at most once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, Unservable, unknown
from groundprune.layout import VisualLayout

_KINDS: dict[str, tuple[str | None, ...]] = {
    "tower_attention": ("cls", "cls-joint", "received"), "tower_hidden": (None, "cls"), "tower_keys": (None,),
    "clip_patches": (None,), "clip_text": (None,), "fingerprint": (None,),
    "llm": ("attention", "hidden", "q", "k", "v"),
}  # fmt: skip


@dataclass(frozen=True)
class Need:
    """One signal that a pruner declares before any work is done.

    signal: "tower_attention", "tower_hidden", "tower_keys", "clip_patches", "clip_text", "fingerprint" or "llm".
    layer: layer index of the tower or the LLM; a Fraction f = the last layer of the first f of its depth;
    None = the tower layer whose output the LLM reads, or the LLM layers that the pruner's stages name.
    kind: for tower_attention "cls" (the CLS row), "cls-joint" (the same with all heads as one) or "received" (mean
    over all query rows); for tower_hidden None (the patches) or "cls" (the CLS token);
    for llm "attention", "hidden", "q", "k" or "v".
    """

    signal: str
    layer: int | Fraction | None = None
    kind: str | None = None

    def __post_init__(self) -> None:
        kinds = _KINDS.get(self.signal)
        if kinds is None:
            raise unknown("signal", self.signal, _KINDS)
        if self.kind not in kinds:
            raise GroundPruneError(f"the signal {self.signal} has the kinds {kinds} (got {self.kind!r})")

    def __str__(self) -> str:
        parts = [self.signal, self.kind, None if self.layer is None else f"layer {self.layer}"]
        return " ".join(part for part in parts if part)


CLS_ATTENTION = Need("tower_attention", kind="cls")
FINGERPRINT = Need("fingerprint")
CLIP_PATCHES = Need("clip_patches")
CLIP_TEXT = Need("clip_text")
TOWER_HIDDEN = Need("tower_hidden")
TOWER_CLS = Need("tower_hidden", kind="cls")


@dataclass(eq=False)
class TowerRecord:
    """What was recorded while the vision tower ran once over a batch of images.

    values: per Need a tensor [images, T, ...] in the tower's own token order, special tokens included.
    fingerprint: one number per image, a function of its pixels alone.
    """

    images: int
    values: dict[Need, Tensor] = field(default_factory=dict)
    fingerprint: list[int] = field(default_factory=list)

    def select(self, images: Sequence[int]) -> TowerRecord:
        index = list(images)
        return TowerRecord(
            len(index),
            {need: value[index] for need, value in self.values.items()},
            [self.fingerprint[i] for i in index] if self.fingerprint else [],
        )

    @staticmethod
    def join(records: Sequence[TowerRecord]) -> TowerRecord:
        values = {need: torch.cat([r.values[need] for r in records]) for need in records[0].values}
        return TowerRecord(sum(r.images for r in records), values, [f for r in records for f in r.fingerprint])


class TextEmbedder:
    """What `Signals` asks of a CLIP text tower (see `groundprune.text_tower`)."""

    def text(self, text: str) -> Tensor:
        """[M, E]: the projected embedding of each segment of `text`."""
        raise NotImplementedError

    def patches(self, hidden: Tensor) -> Tensor:
        """[N, C] tower states -> [N, E] in the space of `text`."""
        raise NotImplementedError


class Signals:
    """The signals of one prompt row over its N visual columns, in fp32.

    A signal that the row does not have, or that the pruner did not declare, raises Unservable with the reason.
    """

    def __init__(
        self,
        layout: VisualLayout,
        projected: Tensor,
        record: TowerRecord | None,
        images: Sequence[int],
        to_tokens: Callable[[Tensor, Sequence[int]], Tensor],
        prompt: str | None = None,
        embedder: TextEmbedder | None = None,
    ):
        self.layout = layout
        self._projected = projected
        self._record = record
        self._images = images
        self._to_tokens = to_tokens
        self._prompt = prompt
        self._embedder = embedder

    @cached_property
    def projected(self) -> Tensor:
        """[N, D]: the features that the LLM would read."""
        return self._projected.float()

    def tower_attention(self, layer: int | Fraction | None = None, kind: str = "cls") -> Tensor:
        """[H, N]: softmax attention per head (H = 1 for "cls-joint"); see `Need` for the kinds."""
        return self._recorded(Need("tower_attention", layer, kind)).transpose(0, 1)

    def tower_hidden(self, layer: int | Fraction | None = None) -> Tensor:
        """[N, C]: the tower's states after `layer`, before any projection."""
        return self._recorded(Need("tower_hidden", layer))

    def tower_cls(self, layer: int | Fraction | None = None) -> Tensor:
        """[tiles, C]: the CLS token's state after `layer`, one row per image that the tower saw."""
        return self._values(Need("tower_hidden", layer, "cls"))[list(self._images)].flatten(0, -2).float()

    def tower_keys(self, layer: int | Fraction | None = None) -> Tensor:
        """[N, H * C]: the keys of `layer`, heads side by side."""
        return self._recorded(Need("tower_keys", layer)).flatten(1)

    @cached_property
    def clip_patches(self) -> Tensor:
        """[N, E]: the patches in CLIP's joint space (visual_projection of post_layernorm)."""
        return self._text_tower.patches(self.tower_hidden()).float()

    @cached_property
    def clip_text(self) -> Tensor:
        """[M, E]: the prompt's text in CLIP's joint space, one row per segment."""
        if self._prompt is None:
            raise Unservable("this pruner reads the prompt's text: pass text=[...], one entry per prompt row")
        return self._text_tower.text(self._prompt).float().to(self._projected.device)

    @property
    def fingerprint(self) -> list[int]:
        """One number per image of the row, a function of its pixels alone."""
        if self._record is None or not self._record.fingerprint:
            raise Unservable(_undeclared("fingerprint"))
        return [self._record.fingerprint[i] for i in self._images]

    @property
    def _text_tower(self) -> TextEmbedder:
        if self._embedder is None:
            raise Unservable("this pruner needs a CLIP text tower: pass text_tower=folder or Hub id")
        return self._embedder

    def _recorded(self, need: Need) -> Tensor:
        return self._to_tokens(self._values(need), self._images).float()

    def _values(self, need: Need) -> Tensor:
        if self._record is None or need not in self._record.values:
            raise Unservable(_undeclared(str(need)))
        return self._record.values[need]


def _undeclared(signal: str) -> str:
    return (
        f"the signal '{signal}' was not recorded when the images were encoded: declare it in the pruner's `needs`, "
        "and encode the images inside gp.prune(...) or with gp.encode(..., pruners=[...])"
    )


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """[N, E], [M, E] -> [N, M] cosine similarity."""
    return torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).transpose(0, 1)
