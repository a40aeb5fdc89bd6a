"""All that a pruner may score by: the signals of one prompt row, lazy, each computed at most once."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from groundprune.errors import Unservable
from groundprune.signals.base import ModelSignals
from groundprune.signals.contracts import TextEmbedder, undeclared


class Signals(ModelSignals):
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

    @cached_property
    def projected(self) -> Tensor:
        """[N, D]: the features that the LLM would read."""
        return self._of_left(self._projected).float()

    @cached_property
    def all_projected(self) -> Tensor:
        """[M, D]: of all the row's visual tokens, those that an earlier stage dropped included."""
        return self._projected.float()

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

    @property
    def fingerprint(self) -> list[int]:
        """One number per image of the row, a function of its pixels alone."""
        if not self._record.fingerprint:
            raise undeclared("fingerprint")
        found = [0] * self.layout.n_images
        image = self.layout.host.image.tolist()
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


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity of each of N vectors with each of M.

    Args:
        a: Float[N, E].
        b: Float[M, E].

    Returns:
        Float[N, M].
    """
    return torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).transpose(0, 1)
