"""Muon for the matrices between hidden states, AdamW for embeddings, gains and biases (or for all)."""

from collections.abc import Callable

import torch
from torch import nn

from groundprune.errors import GroundPruneError

ADAM_PEAK = 1.2e-3  # where Muon has the matrices, its rate says nothing about what is left


def make_optimizers(
    model: nn.Module, name: str, peak_rate: float, weight_decay: float, betas: tuple[float, float]
) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon behind it where that is asked for; both remember their peak rates for `set_rate`."""
    if name not in ("muon", "adamw"):
        raise ValueError(f"the optimizer is muon or adamw, not {name!r}")
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        raise GroundPruneError(f"training the pocket model needs torch 2.9 or newer, this is {torch.__version__}")
    embeddings = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    hidden = [p for p in trained if name == "muon" and p.ndim == 2 and p not in embeddings]
    rest = [p for p in trained if p not in set(hidden)]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=min(peak_rate, ADAM_PEAK), betas=betas)]
    if hidden:
        # So adjusted, its steps have the root mean square of AdamW's at the same rate.
        optimizers.append(
            torch.optim.Muon(hidden, lr=peak_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["peak"] = group["lr"]
    return optimizers


def set_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Every group to that share of its peak rate."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = group["peak"] * share


def descend(
    loss: torch.Tensor, parameters: list[nn.Parameter], optimizers: list[torch.optim.Optimizer], average: Callable
) -> None:
    """One step down the gradient of `loss`, once `average(parameters)` has made it the same in all processes."""
    loss.backward()
    average(parameters)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
