"""How many visual tokens stay: `keep` (a share) or `tokens` (a count per image), in exact arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from groundprune.errors import GroundPruneError
from groundprune.tokens.numbers import share, whole


@dataclass(frozen=True)
class Budget:
    """How many patches stay; exactly one of the two is set.

    Attributes:
        share: of the patches, 0 < share <= 1.
        tokens: per image, at least 1.
    """

    share: Fraction | None = None
    tokens: int | None = None

    @staticmethod
    def parse(keep: float | str | Fraction | None = None, tokens: int | str | None = None) -> Budget:
        """Validate the user's words.

        Args:
            keep: a share, as a number or as text: 0.1 is one tenth, "1/3" one third.
            tokens: a count per image.

        Returns:
            Budget of the one that was given.

        Raises:
            GroundPruneError: neither or both given, or a value out of range.
        """
        if (keep is None) == (tokens is None):
            given = "neither" if keep is None else "both"
            raise GroundPruneError(f"give either keep= or tokens= (got {given})")
        if tokens is not None:
            return Budget(tokens=whole(tokens))
        return Budget(share=share(keep))

    def count(self, patches: int, images: int = 1) -> int:
        """How many of a prompt's patches stay.

        Args:
            patches: N, of all its images.
            images: how many images.

        Returns:
            K = max(1, floor(share * N + 1/2)), or `tokens` per image, at most N; 0 where there is nothing.
        """
        if patches == 0:
            return 0
        if self.share is not None:
            return max(1, (2 * self.share * patches + 1) // 2)
        assert self.tokens is not None
        return min(patches, self.tokens * images)

    def __str__(self) -> str:
        return f"{self.tokens} tokens" if self.share is None else f"{float(self.share):g}"


def allot(total: int, sizes: Sequence[int]) -> list[int]:
    """Split a count over groups in proportion to their sizes (largest remainder; ties to the earlier).

    Args:
        total: the count.
        sizes: of the groups.

    Returns:
        A count per group, at most its size; their sum is exactly min(total, sum(sizes)).
    """
    whole = sum(sizes)
    total = min(total, whole)
    if whole == 0:
        return [0 for _ in sizes]
    shares = [total * size // whole for size in sizes]
    remainders = [total * size % whole for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-remainders[i], i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares
