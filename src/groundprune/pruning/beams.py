"""What became of a prompt whose rows `generate` repeats, for beams and samples."""

from __future__ import annotations

from dataclasses import replace

from groundprune.pruning.prompt import PrunedPrompt, Segment
from groundprune.tokens import growth


def repeated(prompt: PrunedPrompt, copies: int) -> PrunedPrompt:
    """Each row `copies` times."""
    return replace(
        prompt,
        rows=[row for row in prompt.rows for _ in range(copies)],
        segments=[_segment(segment, copies) for segment in prompt.segments],
        next_position=prompt.next_position.repeat_interleave(copies),
        ids=None if prompt.ids is None else prompt.ids.repeat_interleave(copies, dim=0),
        earlier=prompt.earlier and repeated(prompt.earlier, copies),
    )


def _segment(segment: Segment, copies: int) -> Segment:
    return replace(
        segment,
        compaction=growth.repeated(segment.compaction, copies),
        position=segment.position.repeat_interleave(copies, dim=1),
        shift=segment.shift.repeat_interleave(copies),
        kept=[kept for kept in segment.kept for _ in range(copies)],
    )
