"""One prompt row of an audited run, layer by layer: what each slot holds, and what became of its ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groundprune.audits.matching import GENERATED, MERGED, PADDING, entering, followed, row_of
from groundprune.audits.naming import (
    KEPT,
    PER_IMAGE,
    RENUMBERED,
    UNKNOWN,
    Visuals,
    generated_rule,
    same,
    text_rule,
    visual_rule,
)
from groundprune.audits.recorder import LINEAR
from groundprune.audits.recordings import Reference
from groundprune.audits.result import AuditRow, AuditStage

_SURE = 0.1  # how far off a position may be, in ids


@dataclass(frozen=True, eq=False)
class LayerRow:
    """One layer's slots of one row, those of all passes of a sequence behind each other.

    Attributes:
        column: Long[S], or GENERATED, MERGED, PADDING.
        position: Double[S, A]; error: Double[S, A].
        again: what was wrong with keys that were rotated anew; "" if nothing was.
        linear: linear attention, which has no keys that could be rotated.
    """

    column: Tensor
    position: Tensor
    error: Tensor
    again: str
    linear: bool = False


def rows_of(reference: Reference, passes: Sequence[dict[str, Any]]) -> list[tuple[int, list[LayerRow]]]:
    """Per row of a sequence, the row of the unpruned batch that it came from, and its layers."""
    first = passes[0]["layers"][0]["entering"]
    each = max(1, len(first) // len(reference.key))  # beams and samples of a prompt stand side by side
    found = []
    for b in range(len(first)):
        row = row_of(reference, first[b], b // each)
        found.append((row, _layers(reference, row, b, passes)))
    return found


def _layers(reference: Reference, row: int, b: int, passes: Sequence[dict[str, Any]]) -> list[LayerRow]:
    pieces: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in reference.position]
    again = [""] * len(pieces)
    linear = [False] * len(pieces)
    axes = next((p.shape[-1] for p in reference.position if p is not None), 1)
    after = -1
    for number, each in enumerate(passes):
        column, left = None, None
        for index, layer in enumerate(each["layers"][: len(pieces)]):
            if layer is None or b >= len(layer["entering"]):
                continue
            linear[index] = LINEAR in layer["kernels"]
            keys = layer["entering"][b]
            hidden = layer.get("hidden")
            hidden = None if hidden is None else hidden[b % len(hidden)]
            if column is None:
                rows = None if each["embedded"] is None else each["embedded"][b]
                column = entering(reference, row, keys, rows, each["text"][b], hidden, after)
                after = max(after, int(column.max()))
            else:
                column = followed(column, left, keys, hidden)
            left = None if layer["leaving"] is None else layer["leaving"][b]
            nothing = torch.zeros(len(keys), axes, dtype=torch.float64)
            seen = layer["position"] is not None and layer["position"].shape[1] == len(keys)
            position = layer["position"][b] if seen else nothing
            error = layer["error"][b] if seen else nothing + torch.inf
            if layer.get("older") is not None:
                again[index] = again[index] or _anew(layer["older"], b, pieces[index], number)
            held = column if hidden is None else column.where(~hidden, PADDING)
            pieces[index].append((held, position, error))
    empty = (torch.zeros(0, dtype=torch.long), *2 * [torch.zeros(0, axes, dtype=torch.float64)])
    joined = [[torch.cat(parts) for parts in zip(*(found or [empty]), strict=True)] for found in pieces]
    each = zip(joined, again, linear, strict=True)
    return [LayerRow(*parts, again=said, linear=keyless) for parts, said, keyless in each]


def _anew(older: tuple[Tensor, Tensor], b: int, earlier: list[tuple[Tensor, Tensor, Tensor]], number: int) -> str:
    before = torch.cat([position for _, position, _ in earlier])
    column = torch.cat([column for column, _, _ in earlier])
    position, error = (each[b] for each in older)
    if len(before) != len(position):
        return ""
    sure = (error < _SURE).all(-1) & (column != PADDING)
    moved = int((~same(position, before) & sure).sum())
    return f"read {moved} cached keys that pass {number} rotates anew, to other positions" if moved else ""


def read_row(reference: Reference, row: int, layers: list[LayerRow], grid: Sequence[tuple[int, ...]]) -> AuditRow:
    """What became of a row. grid: of its visual tokens, see `AuditRow`."""
    stages: list[AuditStage] = []
    generated: dict[str, list[int]] = {}
    together: set[int] = set()
    for index, layer in enumerate(layers):
        if layer.linear:
            continue
        stage, said, shift = _stage(reference, row, index, layer)
        generated.setdefault(layer.again or said, []).append(index)
        together.add(shift)
        if stages and _joins(stages[-1], stage):
            before = stages.pop()
            stage = AuditStage(**{**vars(stage), "first": before.first})
        stages.append(stage)
    said = next(iter(generated)) if len(generated) == 1 else "differ by layer: " + ", ".join(
        f"{what} in layers {', '.join(map(str, where))}" for what, where in generated.items()
    )  # fmt: skip
    own = next((p[row][reference.visual[row]] for p in reference.position if p is not None), torch.zeros(0, 1))
    return AuditRow(
        stages=tuple(stages),
        generated=said,
        tokens=int(reference.visual[row].sum()),
        grid=tuple(tuple(cell) for cell in grid),  # type: ignore[misc]
        together=together.pop() if len(together) == 1 else 0,
        own=tuple(tuple(p) for p in own.round().tolist()),
    )


def _joins(before: AuditStage, stage: AuditStage) -> bool:
    names = ("slots", "kept", "merged", "visual", "text", "ordered", "positions", "holds", "unknown")
    return all(getattr(before, name) == getattr(stage, name) for name in names)


def _stage(reference: Reference, row: int, index: int, layer: LayerRow) -> tuple[AuditStage, str, int]:
    """(the stage of one layer, what became of generated ids, by how much the whole row moved)."""
    visual, held = reference.visual[row], layer.column
    where, wrong = reference.position[index], reference.error[index]
    ids = torch.full_like(visual, 0, dtype=torch.float64)[:, None] if where is None else where[row]
    unsure = torch.ones_like(visual) if wrong is None else ~(wrong[row] < _SURE).all(-1)
    is_column = held >= 0
    own = torch.full((len(held), ids.shape[1]), torch.nan, dtype=torch.float64)
    own[is_column] = ids[held[is_column]]
    is_visual = (held == MERGED) | (is_column & visual[held.clamp(min=0)])
    told = (layer.error < _SURE).all(-1) & ~(is_column & unsure[held.clamp(min=0)])
    counted = held != PADDING
    unknown = int((counted & ~told).sum())
    words = is_column & ~is_visual
    shift = _shift(layer.position - own, words, is_visual, told)
    position = layer.position - shift

    slots = is_visual.nonzero().squeeze(1)
    behind = words & (torch.arange(len(held)) > (int(slots[0]) if len(slots) else len(held)))
    if not len(slots):  # behind where they would stand
        behind = words & (held > int(visual.nonzero()[0]))
    before = words & ~behind
    if unknown:
        name = text = said = UNKNOWN
    else:
        every = visual.nonzero().squeeze(1)
        found = Visuals(
            slots, position[slots], own[slots], _images(reference, row, held, slots), ids[every],
            reference.image[row, every],
        )  # fmt: skip
        pieces = reference.image[row].cummax(0).values[held[behind]]
        name, text = visual_rule(found), text_rule((position - own)[behind], pieces)
        if not same((position - own)[before], torch.zeros(())).all():
            text = f"other: words before them too, {text}"
        said = generated_rule(_generated(position[held == GENERATED], ids, reference, row))
        kept_text = text == KEPT and (bool(behind.any()) or said.startswith("continue"))
        name = PER_IMAGE if name == RENUMBERED and kept_text else name
    rank = (visual.cumsum(0) - 1)[held.clamp(min=0)]
    prompt = held[is_column]
    rounded = [tuple(p) for p in (layer.position[slots] * 8).round().div(8).add(0.0).tolist()]
    stage = AuditStage(
        first=index,
        last=index,
        slots=int((is_column | (held == MERGED)).sum()),
        kept=tuple(rank[slots[held[slots] >= 0]].tolist()),
        merged=int((held == MERGED).sum()),
        visual=name,
        text=text,
        ordered=bool((prompt.diff() > 0).all()),
        positions=tuple(p if sure else None for p, sure in zip(rounded, told[slots].tolist(), strict=True)),
        holds=tuple(int(rank[s]) if held[s] >= 0 else None for s in slots.tolist()),
        unknown=unknown,
    )
    return stage, said, round(float(shift[0])) if len(shift) and bool((shift == shift[0]).all()) else 0


def _shift(moved: Tensor, words: Tensor, visual: Tensor, told: Tensor) -> Tensor:
    """[A]: by how much a row moved before its first visual token, or as a whole where it begins with one."""
    known = (words | visual) & told & ~moved.isnan().any(-1)
    nothing = moved.new_zeros(moved.shape[1])
    if not known.any():
        return nothing
    first_visual = int(visual.nonzero()[0]) if visual.any() else len(moved)
    before = known & words & (torch.arange(len(moved)) < first_visual)
    together = bool(same(moved[known], moved[known][0]).all())
    chosen = moved[before][0] if before.any() else moved[known][0] if together else nothing
    shift = chosen.round()
    return shift if bool((shift == shift[0]).all()) and bool(same(shift, chosen)) else nothing


def _images(reference: Reference, row: int, held: Tensor, slots: Tensor) -> Tensor:
    """The image of each visual slot; merged features belong to the next that follows what stands before them."""
    image = reference.image[row]
    visual = reference.visual[row].nonzero().squeeze(1)
    found = []
    for slot in slots.tolist():
        column = int(held[slot])
        if column < 0:
            before = held[:slot][held[:slot] >= 0]
            later = visual[visual > (int(before[-1]) if len(before) else -1)]
            column = int(later[0] if len(later) else visual[-1])
        found.append(int(image[column]))
    return torch.tensor(found, dtype=torch.long)


def _generated(position: Tensor, ids: Tensor, reference: Reference, row: int) -> Tensor:
    """[G, A]: from the ids that go on from the unpruned prompt's last."""
    last = int((~reference.padding[row]).nonzero()[-1])
    return position - (ids[last].max() + 1 + torch.arange(len(position)))[:, None]
