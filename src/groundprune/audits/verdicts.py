"""From a recording to a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from groundprune.audits.matching import MERGED, sequences
from groundprune.audits.naming import KEPT, PRESERVED, UNKNOWN
from groundprune.audits.reading import LayerRow, read_row, rows_of
from groundprune.audits.recordings import Reference, checked, reference_of
from groundprune.audits.result import Audit, AuditRow, AuditStage
from groundprune.tokens.layout import VisualLayout

_CONTINUES = ("none", "continue from the unpruned length")


@dataclass(frozen=True, eq=False)
class Judged:
    """The first sequence of an audited run that holds visual tokens.

    Attributes:
        passes: of the recorder.
        rows: per row, that of the unpruned batch and the layers.
    """

    passes: list[dict[str, Any]]
    rows: list[tuple[int, list[LayerRow]]]


def judge(
    recording: dict[str, Any], placeholders: list[int] | None = None, layouts: Sequence[VisualLayout] | None = None
) -> tuple[Audit, Judged]:
    """What the audited run of a recording did to positions.

    Args:
        recording: see `read_recording`.
        placeholders: ids of visual tokens; by default those that the recording names.
        layouts: where the visual tokens of each row lie; by default each image is a square, where it can be.

    Returns:
        (Audit, what it was read from).

    Raises:
        GroundPruneError: no recording, or its unpruned run holds no visual token.
    """
    recording = checked(recording)
    facts = recording["facts"]
    if placeholders is None:
        placeholders = [int(facts["image_token"])] if "image_token" in facts else []
    images = None if layouts is None else [layout.image for layout in layouts]
    reference = reference_of(recording, placeholders, images)
    grids = _grids(reference, layouts, facts.get("grid"))
    passes = [each for each in recording["runs"]["audited"] if each["layers"] and each["layers"][0] is not None]
    every = [(group, rows_of(reference, group)) for group in sequences(passes)]
    seen = [each for each in every if any(_holds_visual(reference, *row) for row in each[1])] or every
    read = [[read_row(reference, row, layers, grids[row]) for row, layers in rows] for _, rows in seen]
    notes = _notes(read, recording["about"]["dtype"])
    linear = [str(index) for index, layer in enumerate(seen[0][1][0][1]) if layer.linear]
    if linear:
        notes.append(
            f"Linear attention in layers {', '.join(linear)}: no positions to read there. Such a layer counts the "
            "tokens that it is given, and so notices what was dropped whatever ids are kept."
        )
    if len(seen) > 1:
        notes.append(f"{len(seen)} prompts were run; the first is shown, the verdict is of all.")
    about = recording["about"]
    audit = Audit(
        verdict=_verdict([row for rows in read for row in rows]),
        rows=tuple(read[0]),
        model=about["model"],
        dtype=about["dtype"].removeprefix("torch."),
        layers=recording["layers"],
        passes=len(recording["runs"]["audited"]),
        kernels=_kernels([each for group, _ in seen for each in group], recording["layers"]),
        notes=tuple(notes),
    )
    return audit, Judged(*seen[0])


def _holds_visual(reference: Reference, row: int, layers: Sequence[LayerRow]) -> bool:
    held = layers[0].column
    return bool(((held == MERGED) | ((held >= 0) & reference.visual[row][held.clamp(min=0)])).any())


def _verdict(rows: Sequence[AuditRow]) -> str:
    reasons: dict[str, str] = {}
    for row in rows:
        reasons = _reasons(row) | reasons  # of each part, what became of it in the first row that lost it
    unknown = max((stage.unknown for row in rows for stage in row.stages), default=0)
    if reasons:
        return "not preserved: " + "; ".join(f"{part} {said}" for part, said in reasons.items())
    if unknown:
        first = next(stage for row in rows for stage in row.stages if stage.unknown)
        return f"could not tell: no known rotation explains {first.unknown} positions of {first.layers}"
    whole = all(len(stage.kept) == row.tokens and not stage.merged for row in rows for stage in row.stages)
    return "nothing pruned" if whole else "preserved"


def _reasons(row: AuditRow) -> dict[str, str]:
    """What is not as it was, each with the layers in which it is not."""
    found: dict[str, str] = {}
    parts: list[tuple[str, str, tuple[str, ...]]] = [
        ("visual ids", "visual", (PRESERVED, UNKNOWN)),
        ("text behind them", "text", (KEPT, UNKNOWN)),
    ]
    for what, name, fine in parts:
        said = [(getattr(stage, name), stage) for stage in row.stages]
        if any(value not in fine for value, _ in said):
            found[what] = _by_layer(said)
    broken = [stage for stage in row.stages if not stage.ordered]
    if broken:
        found["tokens"] = f"reordered{_since(broken, row.stages)}"
    if row.generated not in _CONTINUES and not row.generated.startswith(UNKNOWN):
        found["generated tokens"] = row.generated
    return found


def _by_layer(said: list[tuple[str, AuditStage]]) -> str:
    values = list(dict.fromkeys(value for value, _ in said))
    if len(values) == 1:
        return values[0]
    runs = [value for i, (value, _) in enumerate(said) if i == 0 or said[i - 1][0] != value]
    if len(runs) == 2 and runs[0] in (PRESERVED, KEPT):
        start = next(stage.first for value, stage in said if value == runs[1])
        return f"{runs[1]} from layer {start} on"
    return "differ by layer: " + ", ".join(f"{value} in {stage.layers}" for value, stage in said)


def _since(stages: Sequence[AuditStage], every: Sequence[AuditStage]) -> str:
    return "" if len(stages) == len(every) else f" in {', '.join(stage.layers for stage in stages)}"


def _notes(read: Sequence[Sequence[AuditRow]], dtype: str) -> list[str]:
    found = []
    rows = [row for each in read for row in each]
    if any(stage.unknown for row in rows for stage in row.stages) and "32" not in dtype:
        found.append(f"In {dtype.removeprefix('torch.')} slow rotations are rounded away: audit in float32.")
    return found


def _kernels(passes: Sequence[dict[str, Any]], layers: int) -> tuple[tuple[str, ...], ...]:
    """Of prefills."""
    found: list[list[str]] = [[] for _ in range(layers)]
    for each in passes:
        for index, layer in enumerate(each["layers"][:layers]):
            if layer is not None and layer["entering"].shape[1] > 1:
                found[index] += [kind for kind in layer["kernels"] if kind not in found[index]]
    return tuple(tuple(sorted(kinds, key=lambda kind: kind == "rows")) for kinds in found)


def _grids(
    reference: Reference, layouts: Sequence[VisualLayout] | None, grid: Any
) -> list[list[tuple[int, int, int, int]]]:
    if layouts is not None:
        names = ("image", "tile", "row", "col")
        return [list(zip(*(getattr(layout, n).tolist() for n in names), strict=True)) for layout in layouts]
    return [_guessed(image[visual], grid) for image, visual in zip(reference.image, reference.visual, strict=True)]


def _guessed(image: Tensor, grid: Any) -> list[tuple[int, int, int, int]]:
    """Row by row; as wide as `grid` says, as a square is, or in one row."""
    found = []
    for i in image.unique().tolist():
        count = int((image == i).sum())
        side = round(count**0.5)
        width = int(grid[1]) if grid else side if side * side == count else count
        found += [(i, 0, k // width, k % width) for k in range(count)]
    return found
