"""What `Signals` asks of those who answer for it: a CLIP text tower, and the decoder's layers."""

from __future__ import annotations

from torch import Tensor

from groundprune.errors import Unservable


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


def undeclared(signal: str) -> Unservable:
    """The error for a signal that nobody said would be read."""
    return Unservable(
        f"the signal '{signal}' was not recorded when the images were encoded: declare it in the pruner's `needs`, "
        "and encode the images inside gp.prune(...) or with gp.encode(..., pruners=[...])"
    )
