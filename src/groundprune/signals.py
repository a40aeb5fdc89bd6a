"""What a pruner may score by: the signals of one prompt row, lazy, each computed at most once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

from groundprune.errors import GroundPruneError, Unservable, unknown
from groundprune.tokens.layout import VisualLayout, VisualUnit

_KINDS: dict[str, tuple[str | None, ...]] = {
    "tower_attention": ("cls", "cls-joint", "received", "salient"), "tower_hidden": (None, "cls"),
    "tower_keys": (None,), "clip_patches": (None,), "clip_text": (None,), "fingerprint": (None,),
    "projector": (None,), "llm": ("attention", "hidden", "normed", "q", "k", "v", "frequencies"),
}  # fmt: skip


@dataclass(frozen=True)
class Need:
    """One signal that a pruner declares before any work is done.

    Attributes:
        signal: "tower_attention", "tower_hidden", "tower_keys", "clip_patches", "clip_text", "fingerprint" or "llm";
            or "projector", nothing to read: a merge of tower states needs a projector that takes them one by one.
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
TOWER_CLS = Need("tower_hidden", kind="cls")


@dataclass(eq=False)
class TowerRecord:
    """What was recorded while the vision tower ran once over a batch of images.

    Attributes:
        units: what the encoder made of its input, in its order.
        values: per Need, per unit [P, ...] over its tokens.
        fingerprint: one number per unit, a function of its pixels alone.
    """

    units: list[VisualUnit]
    values: dict[Need, list[Tensor]] = field(default_factory=dict)
    fingerprint: list[int] = field(default_factory=list)

    def select(self, units: Sequence[int]) -> TowerRecord:
        """The record of these units, in this order."""
        return TowerRecord(
            [self.units[i] for i in units],
            {need: [value[i] for i in units] for need, value in self.values.items()},
            [self.fingerprint[i] for i in units] if self.fingerprint else [],
        )

    @staticmethod
    def join(records: Sequence[TowerRecord]) -> TowerRecord:
        """One after another, as one. All must have recorded the same needs."""
        needs = records[0].values if records else ()
        values = {need: [v for r in records for v in r.values[need]] for need in needs}
        return TowerRecord(
            [u for r in records for u in r.units],
            values,
            [f for r in records for f in r.fingerprint],
        )


class TextEmbedder:
    """What `Signals` asks of a CLIP text tower (see `groundprune.probes.clip_text`)."""

    def text(self, text: str) -> Tensor:
        """[1, E]: the projected embedding of `text`, cut to what the tower reads."""
        raise NotImplementedError

    def segments(self, text: str) -> Tensor:
        """[M, E]: of each piece of `text` that is as long as the tower reads; by default only the first."""
        return self.text(text)

    def patches(self, hidden: Tensor) -> Tensor:
        """[N, C] tower states -> [N, E] in the space of `text`."""
        raise NotImplementedError


class LLMStates:
    """What `Signals` asks of the decoder layers that a prefill has passed (see `groundprune.pruning.layers`)."""

    def read(self, layer: int, kind: str, rows: Tensor | None, rope: bool) -> Tensor:
        """See `Signals.llm`."""
        raise NotImplementedError


class Signals:
    """The signals of one prompt row over its N visual columns, in fp32.

    Inside of the LLM N counts the columns that are left.

    Args:
        layout: where the row's visual columns lie.
        projected: Float[M, D], the features of all of them.
        record: of the tower.
        prompt: the row's text, for pruners that read it.
        embedder: the CLIP text tower, likewise.
        left: Long[N], which of the M columns are left; None = all.
        states: of the LLM's layers; None before the LLM.

    Raises:
        Unservable: by each signal that the row does not have, or that the pruner did not declare, with the reason.
    """

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
        self.layout = layout
        self._projected = projected
        self._record = record
        self._prompt = prompt
        self._embedder = embedder
        self._left = left
        self._states = states

    @cached_property
    def projected(self) -> Tensor:
        """[N, D]: the features that the LLM would read."""
        return self._of_left(self._projected).float()

    @cached_property
    def all_projected(self) -> Tensor:
        """[M, D]: of all the row's visual tokens, those that an earlier stage dropped included."""
        return self._projected.float()

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

    @cached_property
    def clip_patches(self) -> Tensor:
        """[N, E]: the patches in CLIP's joint space (visual_projection of post_layernorm)."""
        return self._text_tower.patches(self.tower_hidden()).float()

    @cached_property
    def clip_text(self) -> Tensor:
        """[1, E]: the prompt's text in CLIP's joint space, cut to what the text tower reads (77 tokens)."""
        return self._text_tower.text(self._words).float().to(self._projected.device)

    @cached_property
    def clip_segments(self) -> Tensor:
        """[M, E]: the same, of each 77 tokens of the whole text."""
        return self._text_tower.segments(self._words).float().to(self._projected.device)

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
        where = None if rows is None else torch.as_tensor(list(rows), dtype=torch.long, device=device)
        return self._states.read(layer, kind, where, rope).float()

    @property
    def fingerprint(self) -> list[int]:
        """One number per image of the row, a function of its pixels alone."""
        if not self._record.fingerprint:
            raise Unservable(_undeclared("fingerprint"))
        found = [0] * self.layout.n_images
        image = self.layout.image.tolist()
        start = 0
        for unit in self.layout.unit:
            # Of an image in several tiles all count, each in its place.
            found[image[start]] = (found[image[start]] * 1_000_003 + self._record.fingerprint[unit]) % 2**61
            start += len(self._record.units[unit])
        return found

    @property
    def _words(self) -> str:
        if self._prompt is None:
            raise Unservable("this pruner reads the prompt's text: pass text=[...], one entry per prompt row")
        return self._prompt

    @property
    def _text_tower(self) -> TextEmbedder:
        if self._embedder is None:
            raise Unservable("this pruner needs a CLIP text tower: pass text_tower=folder or Hub id")
        return self._embedder

    def _recorded(self, need: Need) -> Tensor:
        return self._of_left(self._values(need))

    def _values(self, need: Need) -> Tensor:
        if need not in self._record.values:
            raise Unservable(_undeclared(str(need)))
        return torch.cat([self._record.values[need][unit] for unit in self.layout.unit]).float()

    def _of_left(self, value: Tensor) -> Tensor:
        return value if self._left is None else value[self._left]


def _undeclared(signal: str) -> str:
    return (
        f"the signal '{signal}' was not recorded when the images were encoded: declare it in the pruner's `needs`, "
        "and encode the images inside gp.prune(...) or with gp.encode(..., pruners=[...])"
    )


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of each of N vectors with each of M.

    Args:
        a: Float[N, E].
        b: Float[M, E].

    Returns:
        Float[N, M].
    """
    return torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).transpose(0, 1)
