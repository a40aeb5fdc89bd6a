"""`gp.prune`: pruning for code that one cannot change, and for stages between the layers of the LLM."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch._dynamo import OptimizedModule

from groundprune.errors import GroundPruneError, unknown
from groundprune.probes.patching import replaced
from groundprune.pruners.base import Pruner
from groundprune.pruning.generation import Calls
from groundprune.pruning.layers import Layers
from groundprune.pruning.plan import WINDOWS, Plan, Text, TextTower
from groundprune.pruning.prompt import PrunedPrompt, PrunedRow
from groundprune.tokens.compaction import Policy
from groundprune.tokens.layout import VisualLayout


class Run:
    """What the latest prefill inside of a `gp.prune` context did; one entry per prompt row (beams included).

    All raise GroundPruneError before the first prefill with an image.
    """

    def __init__(self, calls: Calls):
        self._calls = calls

    @property
    def kept(self) -> list[Tensor]:
        """Long[K] per row: which of the row's visual tokens stayed to the end (indices into its layout), in sequence.

        They ascend, unless the position policy is `official` and the method's authors emit them in another order.
        """
        return list(self.prompt.segments[-1].kept)

    @property
    def layout(self) -> list[VisualLayout]:
        """Where each row's visual tokens lie in the image."""
        return [row.layout for row in self.rows]

    @property
    def stages(self) -> list[tuple[int, list[Tensor]]]:
        """What each stage left: (the first decoder layer that saw no more, Long[K] per row); 0 = before the LLM."""
        return [(segment.layer, list(segment.kept)) for segment in self.prompt.segments]

    @property
    def rows(self) -> list[PrunedRow]:
        """What became of each row before the LLM."""
        return self.prompt.rows

    @property
    def prompt(self) -> PrunedPrompt:
        """All that became of the prefill."""
        if self._calls.prompts.last is None:
            raise GroundPruneError("nothing was pruned yet: call the model with an image inside of the context")
        return self._calls.prompts.last


@contextlib.contextmanager
def prune(
    model: Any,
    pruner: Pruner,
    positions: str | Policy = "preserved",
    text: Text = None,
    text_tower: TextTower = None,
    window: str = "positions",
) -> Iterator[Run]:
    """Inside of this context `model.generate(...)` and `model(...)` prune visual tokens, before the LLM or inside.

    Callers go on as if nothing was pruned: masks and lengths count the unpruned prompt, sequences come back with it.
    Of pruners that act before the LLM alone `prune_inputs` does the same without a context. Only calls of the model
    are pruned, not of `model.model`; where images were encoded inside of the context and no pruned call read them, a
    warning on leaving says so. A cache that was filled inside of a context is gone on with inside of one. Threads
    take turns. A trainer that is given the model trains it pruned, whatever it wraps it in.

    Args:
        model: a transformers model of a known family, or a wrapper of one (PEFT, `torch.compile`,
            DistributedDataParallel, DeepSpeed), which may be sharded by `fully_shard`.
        pruner: what stays, and between which layers the rest is dropped.
        positions: which ids the kept tokens get, see `groundprune.tokens.positions.FORMS`.
        text: for pruners that read the request, one entry per prompt row.
        text_tower: folder or Hub id of the CLIP checkpoint that the model's vision tower came from; by default the
            `clip` folder of the model's own checkpoint.
        window: what sliding windows count: "positions", columns of the unpruned prompt, which is exact; or "tokens",
            those that are left, as stock code does, so that windows reach further back.

    Yields:
        Run, which says what the latest prefill kept.

    Raises:
        Unservable: the model cannot give what the pruner needs, or is called in a way that cannot be pruned.
        GroundPruneError: an unknown policy, or a context inside of a context.
    """
    if window not in WINDOWS:
        raise unknown("window", window, WINDOWS)
    plan = Plan.of(model, pruner, positions, text, text_tower)
    calls = Calls(plan, Layers(plan, exact_windows=window == "positions"))
    with calls.active(), _uncompiled(model):
        yield Run(calls)
    if calls.prompts.unread:
        warnings.warn(
            f"{pruner.label} did not prune every image: in {len(calls.prompts.unread)} call(s) inside of the gp.prune"
            " context images were encoded that no pruned call read; call the model that was given to gp.prune",
            stacklevel=3,
        )


@contextlib.contextmanager
def _uncompiled(model: Any) -> Iterator[None]:
    """While active, calls of a `torch.compile`d model run the module inside: compiled code may know no hooks."""
    with contextlib.ExitStack() as stack:
        if isinstance(model, OptimizedModule):
            stack.enter_context(replaced(model, "forward", model._orig_mod.__call__))
        yield
