"""Greedy choices that cost a GPU no kernel launch per step: a block of steps is captured once and then replayed.

A greedy rule is written once, as steps that change buffers in place and never wait for the device. On a CPU they run
as they stand; on a GPU as a CUDA graph, which is kept for the next choice of the same shapes.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from groundprune.errors import first_line

BLOCK = 32  # steps of one replay
GRAPHS, BYTES = 16, 256 * 2**20  # what is kept: so many graphs, whose buffers take so much of the device together

# (state, picks Long[steps, B]): choose one token of each row per step. Changes the state and writes picks in place,
# with no other effect, no result that it waits for, and shapes that follow from those it is given.
Steps = Callable[[Sequence[Tensor], Tensor], None]


@torch.no_grad()
def chosen(steps: Steps, state: Sequence[Tensor], count: int, block: int = BLOCK) -> Tensor:
    """What `count` steps choose: Long[B, count], in the order of choice.

    Args:
        steps: of a greedy rule. Surplus steps after the last token was chosen have to be harmless.
        state: what it starts from, one row of the batch first; changed in place, or not, as the device has it.
        count: how many steps.
        block: steps that run together.
    """
    picks = state[0].new_zeros(count, len(state[0]), dtype=torch.long)
    busy = torch.compiler.is_compiling() or (picks.is_cuda and torch.cuda.is_current_stream_capturing())
    if picks.is_cuda and count and not busy:
        _replayed(steps, state, picks, block)
    elif count:
        for some in picks.split(block):
            steps(state, some)
    return picks.T


def farthest(nearest: Tensor, distance: Tensor, count: int) -> Tensor:
    """Long[B, count]: each the token that is farthest from those chosen before it, the first one where several are.

    Args:
        nearest: Float[B, N], how far each token is from what is chosen already.
        distance: Float[B, N, N], whose diagonal is below every distance: a chosen token is not chosen again.
        count: how many.
    """
    nearest = nearest.contiguous()
    state = [nearest, distance.flatten(0, 1), torch.empty_like(nearest), first_rows(nearest)]
    return chosen(_farthest, state, count)


def first_rows(values: Tensor) -> Tensor:
    """Float[B, N] -> Long[B]: where each row of the batch begins among all B * N tokens."""
    return torch.arange(0, values.numel(), values.shape[-1], device=values.device)


def rows_at(pick: Tensor, starts: Tensor) -> Tensor:
    """Long[B] -> Long[B]: the picks counted among the tokens of all rows."""
    return pick if len(pick) == 1 else pick + starts


def _farthest(state: Sequence[Tensor], picks: Tensor) -> None:
    nearest, distance, row, starts = state
    for pick in picks.unbind():
        torch.argmax(nearest, 1, out=pick)
        torch.index_select(distance, 0, rows_at(pick, starts), out=row)
        torch.minimum(nearest, row, out=nearest)


class Recorded:
    """A block of steps over buffers of its own. `capture` makes a graph of it; without one it runs as it stands."""

    def __init__(self, steps: Steps, state: Sequence[Tensor], block: int):
        # Buffers of inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self.state = [torch.empty_like(each) for each in state]
            self.picks = state[0].new_zeros(block, len(state[0]), dtype=torch.long)
        self._steps, self._graph = steps, None
        self.bytes = sum(each.nbytes for each in (*self.state, self.picks))

    def capture(self, state: Sequence[Tensor]) -> None:
        """Record the block on a CUDA device. state: values that the warm-up may run on."""
        with torch.inference_mode(False), torch.no_grad():
            self._load(state)
            side = torch.cuda.Stream(self.picks.device)
            side.wait_stream(torch.cuda.current_stream(self.picks.device))
            with torch.cuda.stream(side):
                self._steps(self.state, self.picks)
            torch.cuda.current_stream(self.picks.device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._steps(self.state, self.picks)
        self._graph = graph

    @torch.no_grad()
    def replay(self, state: Sequence[Tensor], picks: Tensor) -> None:
        """Run from `state`, which stays as it is, until all of `picks`, Long[count, B], are written."""
        self._load(state)
        for some in picks.split(len(self.picks)):
            if self._graph is None:
                self._steps(self.state, self.picks)
            else:
                self._graph.replay()
            some.copy_(self.picks[: len(some)])

    def _load(self, state: Sequence[Tensor]) -> None:
        for mine, given in zip(self.state, state, strict=True):
            mine.copy_(given)


def recorded(steps: Steps, state: Sequence[Tensor], block: int) -> Recorded:
    """A block with its graph; where none can be made it runs as it stands, and a warning says so."""
    found = Recorded(steps, state, block)
    try:
        found.capture(state)
    except RuntimeError as error:
        warnings.warn(
            f"no CUDA graph of a greedy choice can be made, so it is launched step by step: {first_line(error)}",
            stacklevel=2,
        )
    return found


_kept: OrderedDict[tuple[object, ...], Recorded] = OrderedDict()
_lock = threading.Lock()


def _replayed(steps: Steps, state: Sequence[Tensor], picks: Tensor, block: int) -> None:
    """By the graph of these steps, shapes and stream, captured where there is none yet."""
    device = picks.device
    stream = torch.cuda.current_stream(device).cuda_stream
    key = (steps, block, device, stream, *((each.shape, each.dtype) for each in state))
    with _lock, torch.cuda.device(device):
        found = _kept.pop(key, None)
        if found is None:
            found = recorded(steps, state, block)
        found.replay(state, picks)
        _keep(_kept, key, found)


def _keep(kept: OrderedDict[tuple[object, ...], Recorded], key: tuple[object, ...], found: Recorded) -> None:
    """As the last one used. What is over GRAPHS or BYTES goes, the longest unused first, which may be this one."""
    kept[key] = found
    while len(kept) > GRAPHS or sum(each.bytes for each in kept.values()) > BYTES:
        kept.popitem(last=False)
