"""`gp.prune_inputs`: inputs go in, shorter inputs come out, and stock code does the rest.

The dropped placeholders leave input_ids, masks and labels, the matching rows leave the encoded images, and the ids of
what stays are given explicitly: `generate` goes on counting from the last of them.
"""

from __future__ import annotations

from typing import Any

from groundprune.errors import GroundPruneError, Unservable
from groundprune.pruners.base import Pruner
from groundprune.pruning.plan import WINDOWS, Plan, Text, TextTower
from groundprune.pruning.prefill import PrunedInputs, encoded_prefill, shortened
from groundprune.pruning.prompt import PrunedPrompt, columns_in
from groundprune.pruning.turns import next_turn
from groundprune.pruning.wrapped import refuse_sharded
from groundprune.tokens.compaction import Policy

__all__ = ["PrunedInputs", "prune_inputs"]


def prune_inputs(
    model: Any,
    inputs: dict[str, Any],
    pruner: Pruner,
    positions: str | Policy = "preserved",
    text: Text = None,
    text_tower: TextTower = None,
    after: tuple[PrunedInputs, Any] | None = None,
    window: str = "positions",
) -> PrunedInputs:
    """The inputs without the visual tokens that `pruner` drops, for `model(**short)` and `model.generate(**short)`.

    A pure function: no hook stays behind, and neither the model nor `inputs` is changed. Whatever calls the model may
    go on with the result: `generate` in any mode, a PEFT or compiled model, a pipeline, a training loop (give
    `labels` among the inputs; gradients reach tower and projector), a decode loop of one's own.

    Args:
        model: a transformers model of a known family, or a wrapper of one.
        inputs: what the processor gives: input_ids Long[B, L], attention_mask, pixel_values, ...; or, instead of
            pixels, the `mm_encoder_outputs` of `gp.encode`.
        pruner: acts before the LLM; those that act between its layers need `gp.prune`.
        positions: which ids the kept tokens get, see `groundprune.tokens.positions.FORMS`.
        text: for pruners that read the request, one entry per prompt row.
        text_tower: folder or Hub id of the CLIP checkpoint that the model's vision tower came from; by default the
            `clip` folder of the model's own checkpoint.
        after: of a later turn, the result of the turn before and the cache that it filled. `inputs` then hold the
            conversation so far, unpruned, or what is new in it alone; and the new images, or all of them.
        window: what sliding windows count. Stock code counts the tokens that are left; "positions" refuses prompts
            that are longer than a window, where that makes a difference, "tokens" takes them. Where the answer alone
            outgrows a window it makes one, too: `gp.prune` is exact there.

    Returns:
        PrunedInputs, a dict with `kept`, `layout`, `positions` and `restore`.

    Raises:
        Unservable: the model cannot give what the pruner needs, or the inputs cannot be pruned as they are.
        GroundPruneError: an unknown policy, or inputs that do not fit together.
    """
    plan = Plan.of(model, pruner, positions, text, text_tower)
    if plan.inside:
        raise Unservable(f"{pruner.label} prunes between the layers of the LLM: use `with gp.prune(model, pruner)`")
    refuse_sharded(plan.model, "gp.prune_inputs")
    if window not in WINDOWS:
        raise GroundPruneError(f"window must be one of {', '.join(WINDOWS)} (got {window!r})")
    if after is None:
        _refuse_filled(inputs.get("past_key_values"))
        short = shortened(plan, encoded_prefill(plan, inputs))
    else:
        short = next_turn(plan, inputs, after[0].prompt, after[1])
    if window == "positions":
        _check_windows(plan, short.prompt)
    return short


def _refuse_filled(cache: Any) -> None:
    held = columns_in(cache)
    if held:
        raise Unservable(
            f"these inputs go on from a cache of {held} columns: give after=(the result of the turn before, the "
            "cache), or go on inside of gp.prune"
        )


def _check_windows(plan: Plan, prompt: PrunedPrompt) -> None:
    windows = [w for w in plan.family.windows(plan.model.config) if w is not None]
    compaction = prompt.segments[0].compaction
    length = compaction.length
    if windows and length > min(windows) and compaction.dropped:
        raise Unservable(
            f"this prompt of {length} columns is longer than a sliding window of {min(windows)}, which stock code "
            "counts in tokens that are left: use gp.prune(...), where windows count positions, or window='tokens'"
        )
