"""Qwen2.5-VL pruned inside of mlx-vlm: `with mlx.prune(model, pruner):` around its own `generate`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from groundprune.errors import GroundPruneError
from groundprune.pruners.base import Pruner
from groundprune.tokens.compaction import Policy

if TYPE_CHECKING:
    from groundprune.integrations.mlx.context import Run


def prune(model: Any, pruner: Pruner, positions: str | Policy = "preserved") -> AbstractContextManager[Run]:
    """Inside of this context mlx-vlm's `generate` and `stream_generate` prune the images of a prompt.

    The tower runs in mlx, the choice is made in torch on the CPU, on what it gave. What stays goes on with its ids,
    as the stock model counts them; generated tokens count on from the unpruned prompt, or as `positions` says. A
    prompt without images, and one that keeps all of its tokens, are the stock model's. While the context is active no
    prompt of the process goes on from a cache of an earlier one (`prompt_cache_state`, `apc_manager`), and none is
    kept: mlx-vlm would count unpruned tokens in them.

    Args:
        model: a Qwen2.5-VL, of `mlx_vlm.load`.
        pruner: one that acts before the LLM.
        positions: which ids the kept tokens get, see `groundprune.tokens.positions.FORMS`.

    Returns:
        A context that yields a Run, which says what the latest prompt kept.

    Raises:
        Unservable: another model, or one that cannot give what the pruner needs; in calls, for videos and batches.
        GroundPruneError: mlx-vlm 0.7.10 is not installed, an unknown policy, or a context inside of a context.
    """
    try:
        from groundprune.integrations.mlx.context import pruned
    except ImportError as error:
        raise GroundPruneError(f"this needs mlx-vlm 0.7.10: pip install 'groundprune[mlx]' ({error})") from error
    return pruned(model, pruner, positions)
