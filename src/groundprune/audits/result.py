"""What an audit found, as data and in one screen of text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

EXIT_CODES = {"preserved": 0, "nothing pruned": 0, "not preserved": 1, "could not tell": 3}
EXACT = 1e-5  # relative difference of logits from the masked oracle's, in fp32


@dataclass(frozen=True)
class AuditStage:
    """Layers in which a prompt row's tokens and their ids were the same.

    Attributes:
        first, last: the layers, from 0.
        slots: how many tokens of the row they saw, padding aside.
        kept: which visual tokens of the unpruned row, in the sequence in which they stood.
        merged: how many visual slots held something that is no token of the unpruned row.
        visual: the rule that explains the ids of visual slots.
        text: likewise of the words behind the first of them.
        ordered: whether tokens stood in the order of the unpruned row.
        positions: per visual slot the ids by which its key was rotated; None where that could not be told.
        holds: per visual slot the token that it held, None of merged features.
        unknown: slots whose position could not be told.
    """

    first: int
    last: int
    slots: int
    kept: tuple[int, ...]
    merged: int
    visual: str
    text: str
    ordered: bool
    positions: tuple[tuple[float, ...] | None, ...]
    holds: tuple[int | None, ...]
    unknown: int

    @property
    def layers(self) -> str:
        """ "layer 3" or "layers 0 to 2"."""
        return f"layer {self.first}" if self.first == self.last else f"layers {self.first} to {self.last}"


@dataclass(frozen=True)
class AuditRow:
    """One prompt row.

    Attributes:
        stages: ascending by layer.
        generated: what became of the ids of generated tokens.
        tokens: how many visual tokens the unpruned row has.
        grid: per visual token (image, tile, row, column); row and column are -1 where it is no patch.
        together: by how much the whole row moved, from its first token on: rotations know only differences.
        own: per visual token its unpruned ids.
    """

    stages: tuple[AuditStage, ...]
    generated: str
    tokens: int
    grid: tuple[tuple[int, int, int, int], ...]
    together: int
    own: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Audit:
    """What code did to positions.

    Attributes:
        verdict: "preserved", "nothing pruned", "not preserved: ..." or "could not tell: ...".
        rows: of the batch.
        model: its class.
        dtype: of its weights.
        layers: how many decoder layers it has.
        passes: how often the decoder ran.
        kernels: per layer what computed its attention on prefill: "sdpa", "eager", "flash", "flex"; "rows" where
            a few rows of it were computed beside; "linear" where it has no keys.
        difference: largest difference of the logits of the last prompt token from those of the unpruned prompt under
            a mask that hides what was dropped, relative; None where that was not measured.
        oracle: what that means, or why it was not measured.
        notes: what else a reader should know, a sentence each.
    """

    verdict: str
    rows: tuple[AuditRow, ...]
    model: str
    dtype: str
    layers: int
    passes: int
    kernels: tuple[tuple[str, ...], ...]
    difference: float | None = None
    oracle: str = "not measured"
    notes: tuple[str, ...] = ()

    @property
    def preserved(self) -> bool:
        """Whether ids are known to be those of the unpruned prompt."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """0 preserved or nothing pruned, 1 not preserved, 3 could not tell."""
        return EXIT_CODES[self.verdict.partition(":")[0]]

    @property
    def eager_layers(self) -> tuple[int, ...]:
        """Where attention was computed in full outside of a fused kernel."""
        return tuple(i for i, kinds in enumerate(self.kernels) if "eager" in kinds)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "exit_code": self.exit_code, "eager_layers": list(self.eager_layers)}

    def __str__(self) -> str:
        lines = [self.verdict, "", f"{self.model}, {self.dtype}, {self.layers} layers, {self.passes} passes"]
        for number, row in enumerate(self.rows):
            if len(self.rows) > 1:
                lines.append(f"row {number}")
            lines += [f"  {line}" for stage in row.stages for line in stage_lines(stage, row.tokens)]
            lines.append(f"  generated tokens: {row.generated}")
            if row.together:
                lines.append(f"  the whole row moved by {row.together:+d} together, which no rotation can see")
        lines.append(f"attention: {kernels_line(self)}")
        lines.append(f"masked oracle: {self.oracle}")
        return "\n".join([*lines, *self.notes])


def stage_lines(stage: AuditStage, tokens: int) -> list[str]:
    """What a stage is, in one or two lines."""
    merged = f", {stage.merged} slots of merged features" if stage.merged else ""
    order = "" if stage.ordered else "; not in the order of the prompt"
    unknown = f"; {stage.unknown} positions could not be told" if stage.unknown else ""
    return [
        f"{stage.layers}: {len(stage.kept)} of {tokens} visual tokens{merged}{order}",
        f"  visual ids {stage.visual}; text behind them {stage.text}{unknown}",
    ]


def kernels_line(audit: Audit) -> str:
    """ "sdpa in all layers", or by layers."""
    kinds: dict[tuple[str, ...], list[int]] = {}
    for index, found in enumerate(audit.kernels):
        kinds.setdefault(found, []).append(index)
    if len(kinds) == 1:
        return f"{_named(next(iter(kinds)))} in all layers"
    return "; ".join(f"{_named(found)} in layers {', '.join(map(str, layers))}" for found, layers in kinds.items())


def _named(kinds: tuple[str, ...]) -> str:
    words = {"rows": "a few rows beside", "linear": "linear attention"}
    return " and ".join(words.get(kind, kind) for kind in kinds) or "no kernel seen"
