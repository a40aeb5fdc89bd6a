"""The signals of one prompt row that the model itself gives, those of its tower and of its decoder's layers.

Lazy: nothing is read before a pruner asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, Unservable, unknown
from groundprune.signals.contracts import undeclared
from groundprune.tokens.layout import VisualLayout
from groundprune.tokens.sending import sent

if TYPE_CHECKING:
    from groundprune.signals.contracts import LLMStates, TextEmbedder
    from groundprune.signals.record import TowerRecord

_KINDS: dict[str, tuple[str | None, ...]] = {
    "tower_attention": ("cls", "cls-joint", "received", "salient"), "tower_hidden": (None, "cls"),
    "tower_keys": (None,), "clip_patches": (None,), "clip_text": (None,), "fingerprint": (None,),
    "projector": (None,), "video": (None,), "llm": ("attention", "hidden", "normed", "q", "k", "v", "frequencies"),
}  # fmt: skip


@dataclass(frozen=True)
class Need:
    """One signal that a pruner declares before any work is done.

    Attributes:
        signal: "tower_attention", "tower_hidden", "tower_keys", "clip_patches", "clip_text", "fingerprint" or "llm";
            or "projector", nothing to read: a merge of tower states needs a projector that takes them one by one; or
            "video", likewise: a comparison of frames needs a model that takes videos.
        layer: layer index of the tower or the LLM; a Fraction f = the last layer of the first f of its depth;
            None = the tower layer whose output the LLM reads, or the LLM layers that the pruner's stages name.
        kind: for tower_attention "cls" (the CLS row), "cls-joint" (the same with all heads as one), "received" (mean
            over all query rows), or "salient" (the CLS row where the tower has a CLS token, else received); for
            tower_hidden None (the patches) or "cls" (the CLS token); for llm "attention", "hidden", "normed", "q",
            "k", "v" or "frequencies", see `Signals.llm`.

    Raises:
        GroundPruneError: a signal or a kind that there is not.
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
SALIENT = Need("tower_attention", kind="salient")
FINGERPRINT = Need("fingerprint")
CLIP_PATCHES = Need("clip_patches")
CLIP_TEXT = Need("clip_text")
TOWER_HIDDEN = Need("tower_hidden")
PROJECTOR = Need("projector")
VIDEO = Need("video")
TOWER_CLS = Need("tower_hidden", kind="cls")


class ModelSignals:
    """Base of `Signals`, whose arguments it takes."""

    def __init__(
        self,
        layout: VisualLayout,
        projected: Tensor,
        record: TowerRecord,
        prompt: str | None = None,
        embedder: TextEmbedder | None = None,
        left: Tensor | None = None,
        states: LLMStates | None = None,
    ):
        self.layout, self._projected, self._record = layout, projected, record
        self._prompt, self._embedder, self._left, self._states = prompt, embedder, left, states

    def tower_attention(self, layer: int | Fraction | None = None, kind: str = "cls") -> Tensor:
        """[H, N]: softmax attention per head (H = 1 for "cls-joint"); see `Need` for the kinds.

        A token made of several patches has their mean.
        """
        return self._recorded(Need("tower_attention", layer, kind)).transpose(0, 1)

    def tower_hidden(self, layer: int | Fraction | None = None) -> Tensor:
        """[N, C]: the tower's states after `layer`, before any projection."""
        return self._recorded(Need("tower_hidden", layer))

    def tower_cls(self, layer: int | Fraction | None = None) -> Tensor:
        """[tiles, C]: the CLS token's state after `layer`, one row per image that the tower saw."""
        return self._values(Need("tower_hidden", layer, "cls"))

    def tower_keys(self, layer: int | Fraction | None = None) -> Tensor:
        """[N, H * C]: the keys of `layer`, heads side by side."""
        return self._recorded(Need("tower_keys", layer)).flatten(1)

    def llm(self, layer: int, kind: str, rows: Tensor | Sequence[int] | None = None, rope: bool = True) -> Tensor:
        """A signal of a decoder layer.

        Args:
            layer: at most the stage's own; earlier ones as `Pruner.llm_layers` says.
            kind: "attention", softmax rows over all columns, of which the visual ones are given; "hidden", the states
                that enter the layer, or "normed", those under the model's final norm; "q", "k", "v"; or
                "frequencies", by how much each pair of channels turns per position in the rotary embedding.
            rows: Long[R], columns of the unpruned prompt: the queries of "attention", by default the last; of other
                kinds whose values are given instead of those of the N.
            rope: False = q and k before the rotary embedding.

        Returns:
            Float[H, R, N] of "attention", [N, D] of states, [H, N, C] of q, k and v, [C / 2] of "frequencies".
        """
        if self._states is None:
            raise Unservable(f"the signal 'llm {kind}' is not there yet: this pruner acts before the LLM")
        device = self.layout.column.device
        where = None if rows is None else sent(torch.as_tensor(rows, dtype=torch.long), device)
        return self._states.read(layer, kind, where, rope).float()

    def _recorded(self, need: Need) -> Tensor:
        return self._of_left(self._values(need))

    def _values(self, need: Need) -> Tensor:
        if need not in self._record.values:
            raise undeclared(str(need))
        return torch.cat([self._record.values[need][unit] for unit in self.layout.unit]).float()

    def _of_left(self, value: Tensor) -> Tensor:
        return value if self._left is None else value[self._left]
