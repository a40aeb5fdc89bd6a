"""The parts of SparseVLM's rule as pure functions; see `sparsevlm.py` for paper and source."""

from __future__ import annotations

import torch
from torch import Tensor

from groundprune.pruners.merging import Merged, merged, one_hot
from groundprune.pruners.ranking import checked, others, ranked, rows_of, top


def raters(text: Tensor, visual: Tensor) -> Tensor:
    """[..., T, D], [..., N, D], both as they enter the LLM -> Bool[..., T]: the words that the image is about."""
    text, visual = checked(text, "features"), checked(visual, "features")
    share = (visual @ text.transpose(-1, -2)).softmax(-1).mean(-2)
    found = share > share.mean(-1, keepdim=True)
    return found | ~found.any(-1, keepdim=True)  # a single word is not above its own mean


def strongest_heads(attention: Tensor, count: int) -> Tensor:
    """[H, R, N], the raters' rows -> Long[min(count, H)]: the heads that look most at the image, best first."""
    return ranked(attention.float().sum((-2, -1)), count)


def rope_kernel(distance: Tensor, frequencies: Tensor) -> Tensor:
    """Long[...] -> Float[...]: q . k / sqrt(d) of two vectors of ones, rotated to ids that lie so far apart.

    frequencies: Float[d / 2], of the rotary embedding. From a distance of about 1700 on (theta 1e4, d 128) it falls
    below zero, where a division by it turns ranks round; it is cut at a hundredth of its largest value.
    """
    root = (2 * len(frequencies)) ** 0.5
    kernel = 2 * (distance.float()[..., None] * frequencies.to(distance.device)).cos().sum(-1) / root
    return kernel.clamp(min=0.01 * root)


def rank_count(attention: Tensor, scale: float, bias: float) -> int:
    """[H, R, N], the raters' rows -> version 1's count, scale x rank + bias.

    (scale, bias) is (13.5, 0) for 192 tokens, (9, 6) for 128, (0.8, 0) for 64. Not below N means that nothing is
    pruned; the first version prunes one token even then.
    """
    return int(int(torch.linalg.matrix_rank(attention.float().mean(0))) * scale + bias)


def clusters_of(dropped: int) -> tuple[int, int]:
    """How many of so many dropped tokens are recycled, and into how many clusters."""
    recycled = int(0.3 * dropped) + 1
    return min(recycled, dropped), recycled // 10 + 1


def cluster(states: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Float[..., n, D] -> centres Long[..., count] and each token's cluster Long[..., n], by density peaks (DPC-KNN).

    The official code adds noise to the densities, and where two tokens are each other's nearest the noise decides;
    here equal densities stand, and ties go to the earlier token.
    """
    distance = torch.cdist(states, states, compute_mode="donot_use_mm_for_euclid_dist") / states.shape[-1] ** 0.5
    nearest = distance.topk(min(count, states.shape[-2]), dim=-1, largest=False).values
    density = (-nearest.square().mean(-1)).exp()
    denser = density[..., None, :] > density[..., :, None]
    farthest = distance.amax((-2, -1), keepdim=True)
    gap = torch.where(denser, distance, farthest).amin(-1)
    centres = ranked(gap * density, count)
    cluster = rows_of(distance, centres).argmin(-2)
    itself = (centres[..., :, None] == torch.arange(states.shape[-2], device=states.device)).int()
    return centres, torch.where(itself.any(-2), itself.argmax(-2), cluster)


def select_sparsevlm(score: Tensor, states: Tensor, count: int, recycle: bool = True) -> Tensor | Merged:
    """score: Float[..., n], of the survivors; states: Float[..., n, D] -> the largest, Long[..., count], ascending.

    recycle: some of what is dropped come back as clusters, see `recycled`, which are part of the count.
    """
    n = score.shape[-1]
    whole = next((k for k in range(count, 0, -1) if k + clusters_of(n - k)[1] <= count), 0) if recycle else 0
    return recycled(score, states, whole) if whole else top(score, count)


def recycled(score: Tensor, states: Tensor, count: int) -> Merged:
    """The `count` < n largest, and beside them the best of the others as the means of a few clusters.

    These are emitted last, each in the slot of its centre.
    """
    n = score.shape[-1]
    kept = top(score, count)
    dropped = others(kept, n)
    most, size = clusters_of(n - count)
    back = dropped.gather(-1, ranked(score.gather(-1, dropped), most))
    centres, member = cluster(rows_of(checked(states, "features"), back), size)
    joins = (member[..., None, :] == torch.arange(size, device=member.device)[:, None]).float()
    mean = joins / joins.sum(-1, keepdim=True)
    weight = mean @ one_hot(back, n)
    return merged(torch.cat([kept, back.gather(-1, centres)], -1), torch.cat([one_hot(kept, n), weight], -2))
