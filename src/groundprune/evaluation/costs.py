"""What the answers under one setting cost in the mean, and the seconds that they took, which add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

ENCODING = "encoding"  # among the timings: of the images, which are encoded for all settings at once


@dataclass(frozen=True)
class Costs:
    """Means per answer; what is counted is said in `groundprune.evaluation.accounting`.

    Attributes:
        prefill_tokens: of the prompt, text included, that the first layer of the LLM read.
        layer_tokens: the same as the mean over all layers: less where tokens are dropped between layers.
        new_tokens: of the answer.
        kv_bytes: of the cache after the prefill.
        prefill_flops: of the LLM.
        decode_flops: of the LLM, all that comes after the prefill.
        tower_flops: of vision tower and projector; None where they are not known.
    """

    prefill_tokens: float
    layer_tokens: float
    new_tokens: float
    kv_bytes: float
    prefill_flops: float
    decode_flops: float
    tower_flops: float | None

    @property
    def llm_flops(self) -> float:
        """Of prefill and decoding."""
        return self.prefill_flops + self.decode_flops

    @property
    def total_flops(self) -> float | None:
        """Of an answer to an image of its own; None where `tower_flops` is."""
        return None if self.tower_flops is None else self.tower_flops + self.llm_flops

    @staticmethod
    def of(rows: Sequence[Mapping[str, Any]]) -> Costs | None:
        """None without rows, and where one of them, of an older version, does not say what it cost."""
        found = [cost for row in rows if (cost := row.get("cost")) is not None]
        if not found or len(found) < len(rows):
            return None

        def mean(values: Sequence[float | None]) -> Any:
            return None if None in values else round(sum(v for v in values if v is not None) / len(values), 4)

        return Costs(
            mean([cost["slots"][0][1] for cost in found]),
            *(mean([cost[name] for cost in found]) for name in _STORED),
        )

    def to_json(self, unpruned: Costs | None) -> dict[str, Any]:
        """With totals, and as `of_unpruned` the ratios to what the unpruned setting cost, where it was run."""
        own = self._measures()
        if unpruned is None:
            return {**own, "of_unpruned": None}
        pairs = {name: (value, unpruned._measures()[name]) for name, value in own.items()}
        return {**own, "of_unpruned": {name: round(v / of, 6) for name, (v, of) in pairs.items() if v and of}}

    @staticmethod
    def from_json(data: Mapping[str, Any] | None) -> Costs | None:
        """None of what older versions stored."""
        return None if data is None else Costs(**{name: data[name] for name in Costs.__dataclass_fields__})

    def _measures(self) -> dict[str, float | None]:
        return {**asdict(self), "total_flops": self.total_flops}


# In rows by the same names.
_STORED = ("layer_tokens", "new_tokens", "kv_bytes", "prefill_flops", "decode_flops", "tower_flops")


@dataclass(frozen=True)
class Timing:
    """Wall time of how many answers, or of how many samples' images; resumed runs and several processes add up."""

    seconds: float = 0.0
    samples: int = 0

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.seconds + other.seconds, self.samples + other.samples)

    @property
    def mean(self) -> float | None:
        """Seconds per answer; None where none was timed."""
        return self.seconds / self.samples if self.samples else None
