"""How long each pruner takes to choose, as a share of the prefill of an LLM of LLaMA-7B's shape.

    python -m benchmarks selection [--tokens 576,2880,10000]

Prefill: its FLOPs (32 layers, width 4,096, MLP 11,008; N visual tokens and 64 of text) over the FLOP/s of this
machine's matrix product, measured in the same run; both in processor time of one thread. Choosing: the pruner's own
call on random signals of a LLaVA-1.5's sizes; attention rows that it reads of the LLM, and CLIP's projection of the
patches, are computed within the time. What the tower records while it runs anyway, and the text tower, are not
counted. Several thousand tokens are one large image.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.storing import store
from benchmarks.turns import matmul_flops
from groundprune.errors import Unservable
from groundprune.pruners import Pruner, Selection, Stage, make_pruner, pruner_names
from groundprune.signals import VIDEO, LLMStates, Need, Signals, TextEmbedder, TowerRecord
from groundprune.studies.parts.meters import seconds
from groundprune.tokens.budget import Budget
from groundprune.tokens.layout import VisualLayout, VisualUnit, place_units

GRIDS = {576: (24, 24), 2880: (48, 60), 10_000: (100, 100)}
LAYERS, WIDTH, MLP, HEADS, TEXT = 32, 4096, 11_008, 32, 64
TOWER, TOWER_HEADS, JOINT = 1024, 16, 768  # CLIP-L
KEEPS = ("0.25", "0.5", "0.75")  # the first that a method can reach; those inside of the LLM have a smallest


def prefill_flops(tokens: int) -> float:
    """Projections, MLP, and causal attention."""
    length = tokens + TEXT
    return LAYERS * (2 * length * (4 * WIDTH**2 + 3 * WIDTH * MLP) + 2 * length**2 * WIDTH)


class Tower(TextEmbedder):
    """CLIP's projections."""

    def __init__(self) -> None:
        self.projection, self.words = torch.randn(TOWER, JOINT), torch.randn(1, JOINT)

    def text(self, text: str) -> Tensor:
        return self.words

    def patches(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(hidden, (TOWER,)) @ self.projection


class States(LLMStates):
    """Random states of the layers; attention rows are computed from queries and keys."""

    def __init__(self, n: int, text: int):
        self.query = torch.randn(HEADS, n + text, WIDTH // HEADS)
        self.key, self.value = torch.randn_like(self.query), torch.randn_like(self.query)
        self.hidden, self.n = torch.randn(n + text, WIDTH), n
        self.other = torch.randn(n + text, WIDTH)

    def read(self, layer: int, kind: str, rows: Tensor | None, rope: bool) -> Tensor:
        if kind == "frequencies":
            return 1e4 ** -(torch.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS))
        where = torch.arange(self.n) if rows is None else self.n + torch.arange(len(rows))
        if kind in ("hidden", "normed"):
            return (self.hidden if layer % 2 else self.other)[where]
        if kind == "attention":
            query = self.query[:, -1:] if rows is None else self.query[:, where]
            return (query @ self.key.transpose(1, 2) / (WIDTH // HEADS) ** 0.5).softmax(-1)[..., : self.n]
        return {"q": self.query, "k": self.key, "v": self.value}[kind][:, where]


def recorded(need: Need, n: int) -> Tensor:
    """A signal of the tower, drawn at random."""
    if need.signal == "tower_attention":
        return torch.rand(n, 1 if need.kind == "cls-joint" else TOWER_HEADS)
    if need.signal == "tower_hidden" and need.kind == "cls":
        return torch.randn(1, TOWER)
    return torch.randn(n, TOWER_HEADS, TOWER // TOWER_HEADS) if need.signal == "tower_keys" else torch.randn(n, TOWER)


def layout_of(n: int) -> tuple[VisualUnit, VisualLayout]:
    """One image, then the text."""
    unit = VisualUnit.grid(*GRIDS[n], torch.zeros(1))
    ids = torch.cat([torch.full((n,), 1), torch.zeros(TEXT, dtype=torch.long)])[None]
    position = torch.arange(n + TEXT)[None, None]
    return unit, place_units(ids, position, {"image": [unit]}, {"image": 1}, lambda ids, columns: [0] * len(columns))[
        0
    ]


def chosen(
    pruner: Pruner, layout: VisualLayout, stage: Stage, given: tuple[Any, ...], found: list[Selection]
) -> None:
    """One call of a pruner. given: what Signals are made of; each call makes them anew, for they remember."""
    found.append(pruner(Signals(*given), layout, stage))


def measured(pruner: Pruner, n: int, projected: Tensor, tower: Tower, repetitions: int) -> tuple[list[int], float]:
    """What the stages leave, and the seconds that they take together, the median of a few."""
    unit, layout = layout_of(n)
    needs = {need for need in pruner.needs if need.signal.startswith("tower")} | {Need("tower_hidden")}
    record = TowerRecord([unit], {need: [recorded(need, n)] for need in needs}, [7])
    left, counts, total = torch.arange(n), [], 0.0
    for stage in pruner.stages(LAYERS):
        count = stage.budget.count(n)
        counts.append(count)
        if count >= len(left):
            continue
        states = None if stage.layer is None else States(len(left), TEXT)
        share = replace(stage, budget=Budget(share=Fraction(count, len(left))))
        given = (layout, projected[:n], record, "the red mug", tower, left, states)
        found: list[Selection] = []
        choose = functools.partial(chosen, pruner, layout.subset(left), share, given, found)
        total += statistics.median(seconds(choose, projected.device)[0] for _ in range(repetitions))
        left = left[found[-1].kept]
    return counts, total


def reachable(name: str, n: int) -> Pruner:
    """At the smallest of KEEPS that the method can reach."""
    for keep in KEEPS:
        pruner = make_pruner(name, keep)
        with contextlib.suppress(Unservable):
            for stage in pruner.stages(LAYERS):
                stage.budget.count(n)
            return pruner
    raise Unservable(f"{name} reaches none of the keeps {KEEPS}")


@torch.no_grad()
def main(path: Path, sizes: list[int], device: str = "cpu") -> None:
    """Measure every pruner at every size. On a GPU the prefill is that of its bf16 matrix product."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.device(device):
        _every(path, sizes)


def _every(path: Path, sizes: list[int]) -> None:
    tower, projected = Tower(), torch.randn(max(sizes), WIDTH)
    flops = matmul_flops(projected.device)
    prefill = {n: prefill_flops(n) / flops for n in sizes}
    rows = []
    stills = [name for name in pruner_names() if VIDEO not in make_pruner(name, "0.9").needs]
    for name in stills:
        row: dict[str, Any] = {"pruner": name, "of": {}}
        for n in sizes:
            pruner = reachable(name, n)
            counts, taken = measured(pruner, n, projected, tower, 3 if n < 5000 else 1)
            row["of"][n] = {"keep": str(pruner.keep), "left": counts, "seconds": round(taken, 5),
                            "share": round(taken / prefill[n], 5)}  # fmt: skip
        rows.append(row)
        print(f"{name:12}", *(f"{n}: {100 * told['share']:.3g}%" for n, told in row["of"].items()), flush=True)
    flop = {"matmul_gflops": round(flops / 1e9, 1), "prefill_seconds": {n: round(s, 2) for n, s in prefill.items()}}
    store(path, {"basis": flop, "pruners": rows})
