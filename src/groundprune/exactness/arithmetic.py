"""How finely a model computes: by how much runs that are equal in mathematics differ, and why.

A model in fp32 gives the same logits to some 1e-6 whether a prompt stands alone or behind padding. One whose
layers round activations, to bf16 or to eight bits, does not: a value at the edge of a step falls to either side. What
two runs can prove ends there. Nothing is read from configs, which name formats and not what a kernel does with them:
layers are asked, with the states that they get.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-5  # relative, fp32
NOISE_FACTOR = 8  # a difference may be this many times the noise, which is the largest of few runs
PADDINGS = (1, 7, 64)  # columns; kernels cut lengths into blocks of other sizes
_LOUD = 100.0


@dataclass(frozen=True)
class Arithmetic:
    """What was measured of a model.

    Attributes:
        noise: the largest difference of logits between a prompt and the same one behind padding, see `PADDINGS`.
        step: the largest departure of a linear layer of the LLM from f(x) + f(y) = f(x + y) + f(0), relative to its
            largest output: one step of what it rounds its inputs to.
        across: the first linear layer where one token's states change what others give, which attention alone may
            do; None where there is none.
    """

    noise: float
    step: float
    across: str | None

    @property
    def tolerance(self) -> float:
        """What two runs may differ by: `NOISE_FACTOR` times the noise, or one step, and never less than TOLERANCE.

        One step, since few runs may meet no value at the edge of one, and the next does.
        """
        return max(TOLERANCE, NOISE_FACTOR * self.noise, self.step)


def measure_arithmetic(model: Any, inputs: dict[str, Any], decode: Callable[[dict[str, Any]], Any]) -> Arithmetic:
    """Three runs behind padding, and one whose linear layers are each asked four times more.

    Args:
        model: a transformers model.
        inputs: what the processor gives.
        decode: greedy `generate` with logits, of inputs.

    Returns:
        Arithmetic.
    """
    stock = decode(inputs)
    runs = [decode(_behind_padding(model, inputs, columns)) for columns in PADDINGS]
    noise = max(relative_difference(*comparable(run, stock)) for run in runs)
    with _asked(model) as found, torch.no_grad():
        model(**inputs)
    across = next((name for name, (_, apart) in found.items() if apart > TOLERANCE), None)
    return Arithmetic(noise, max((step for step, _ in found.values()), default=0.0), across)


def comparable(a: Any, b: Any) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The logits of two runs up to the step at which they say different things; later ones answer other prompts.

    Args:
        a: what `generate` gives with logits.
        b: likewise, as many steps.

    Returns:
        Logits of a and of b, [B, V] per step.
    """
    steps = len(b.logits)
    parted = (a.sequences[:, -steps:] != b.sequences[:, -steps:]).any(0).nonzero()
    count = steps if len(parted) == 0 else int(parted[0]) + 1
    return a.logits[:count], b.logits[:count]


def relative_difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Largest |a - b| over the largest |b|, over all pairs.

    Args:
        a: tensors.
        b: as many, those that the scale is taken from.

    Returns:
        0 where all are equal; infinite where a pair differs in shape, or by NaN.
    """
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            return math.inf
        x, y = x.detach().float(), y.detach().float()
        if not x.equal(y):
            apart = float((x - y).abs().max() / y.abs().max())
            worst = math.inf if math.isnan(apart) else max(worst, apart)  # max() would pass over NaN
    return worst


def _behind_padding(model: Any, inputs: dict[str, Any], columns: int) -> dict[str, Any]:
    ids = inputs["input_ids"]
    pad = model.generation_config.pad_token_id
    padded = {"attention_mask": torch.ones_like(ids), **inputs}
    for name, value in padded.items():
        if torch.is_tensor(value) and not value.is_floating_point() and value.shape[-2:] == ids.shape:
            fill = (pad if isinstance(pad, int) else 0) if name == "input_ids" else 0
            padded[name] = nn.functional.pad(value, (columns, 0), value=fill)
    return padded


@contextlib.contextmanager
def _asked(model: Any) -> Iterator[dict[str, tuple[float, float]]]:
    """Per linear layer that runs in the LLM: (departure from a sum, change of others by one token), both relative."""
    found: dict[str, tuple[float, float]] = {}
    prefix = next((name for name, module in model.named_modules() if module is model.get_decoder()), "")

    def ask(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if name in found or not args or args[0].ndim != 3 or args[0].shape[1] < 2:
            return
        found[name] = (0.0, 0.0)  # the calls below come by here too
        found[name] = _departures(module, args[0], output)

    with contextlib.ExitStack() as stack:
        for name, module in model.get_decoder().named_modules():
            inner = [each for each in module.modules() if each is not module and hasattr(each, "in_features")]
            if hasattr(module, "in_features") and not inner:  # an adapter's layer holds linear ones

                def hook(module: nn.Module, args: Any, output: Any, name: str = f"{prefix}.{name}") -> None:
                    ask(name, module, args, output)

                stack.callback(module.register_forward_hook(hook).remove)
        yield found


def _departures(module: nn.Module, x: Tensor, output: Tensor) -> tuple[float, float]:
    scale = output.float().abs().max()
    y = x.roll(1, -1)
    zero, other, both = (module(each).float() for each in (torch.zeros_like(x), y, x + y))
    step = float((output.float() + other - both - zero).abs().max() / scale)
    one = x.shape[1] // 2
    loud = x.clone()
    loud[:, one] *= _LOUD * x.abs().max() / x[:, one].abs().amax(-1, keepdim=True).clamp_min(1e-6)
    others = torch.arange(x.shape[1], device=x.device) != one
    return step, relative_difference([module(loud)[:, others]], [output[:, others]])
