"""What position ids and gaps weigh in a hybrid of linear and full attention, beside a model of full attention alone.

    python -m tools.linear_attention [--seeds 8]

Tiny random models of Qwen3-VL and Qwen3.5 at the same sizes, eight layers, of which in Qwen3.5 every fourth is full
attention, as in its checkpoints. Half of the visual tokens are dropped, and the log-probabilities of the next token
are compared. Random weights say what the architecture does, not what training makes of it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_of
from groundprune.families import families

PROMPTS = [(2, 5, 7)]
PAIRS = {
    "reassigned ids from preserved": ("reassigned", "preserved"),
    "preserved ids from the unpruned prompt": ("preserved", "unpruned"),
    "preserved ids from the prompt with gaps": ("preserved", "gaps"),
}
# By name the family, options of its tiny config, and the rate at which states decay, None = that of `tiny_of`.
MODELS: dict[str, tuple[str, dict[str, Any], float | None]] = {
    "Qwen3-VL": ("qwen3_vl", {}, None),
    "Qwen3.5": ("qwen3_5", {"interval": 4}, None),
    "Qwen3.5, rate 0.01": ("qwen3_5", {"interval": 4}, 0.01),
    "Qwen3.5, rate 8": ("qwen3_5", {"interval": 4}, 8.0),
}


def made(name: str, seed: int, layers: int = 8) -> Any:
    """A tiny random model of `MODELS`.

    Args:
        name: one of `MODELS`.
        seed: of the weights.
        layers: of the LLM.

    Returns:
        A stock transformers model.
    """
    family, options, rate = MODELS[name]
    model = tiny_of(families()[family].tiny_config(layers=layers, **options), seed)
    for parameter, weight in model.named_parameters():
        if rate is not None and parameter.endswith("A_log"):
            weight.data.fill_(math.log(rate))
    return model


@torch.no_grad()
def next_token(model: Any, inputs: dict[str, Any], pruner: gp.Pruner) -> dict[str, Tensor]:
    """Log-probabilities [B, V] of the next token, by how the prompt is run.

    Args:
        model: a stock one.
        inputs: of `tiny_inputs`, without padding.
        pruner: acts before the LLM.

    Returns:
        "unpruned"; "preserved" and "reassigned", pruned; and "gaps", the unpruned prompt under stock code's 2-D mask,
        as if the dropped tokens were padding: exact in full attention, while linear layers read zeros in their place
        and let their states decay.
    """
    found = {"unpruned": model(**inputs).logits}
    for positions in ("preserved", "reassigned"):
        short = gp.prune_inputs(model, inputs, pruner, positions)
        found[positions] = model(**short).logits
        mask = torch.zeros_like(inputs["attention_mask"])
        for b, row in enumerate(short.prompt.rows):
            mask[b, row.column] = 1
    # Where dropped tokens leave no mark on ids: those of the whole prompt.
    whole = gp.prune_inputs(model, inputs, type(pruner)(keep=1))["position_ids"]
    found["gaps"] = model(**{**inputs, "attention_mask": mask, "position_ids": whole}).logits
    return {name: logits[:, -1].log_softmax(-1) for name, logits in found.items()}


def differences(name: str, seed: int) -> dict[str, float]:
    """By pair, how far two ways to run a prompt are apart.

    Args:
        name: one of `MODELS`.
        seed: of the weights and of the prompt.

    Returns:
        Mean absolute difference of log-probabilities over the vocabulary, relative to the standard deviation of the
        second's.
    """
    model = made(name, seed)
    said = next_token(model, tiny_inputs(model, PROMPTS, seed=seed + 1, modality="image"), gp.Random(keep=0.5))
    return {pair: float((said[a] - said[b]).abs().mean() / said[b].std()) for pair, (a, b) in PAIRS.items()}


def table(seeds: Sequence[int]) -> str:
    """Markdown: a row per pair, a column per model; median, smallest and largest over seeds.

    Args:
        seeds: at least one.

    Returns:
        Lines of a table.
    """
    found = {name: [differences(name, seed) for seed in seeds] for name in MODELS}
    rows = [f"| next token, keep 0.5 | {' | '.join(MODELS)} |", f"| :-- |{' --: |' * len(MODELS)}"]
    for pair in PAIRS:
        cells = []
        for each in found.values():
            values = sorted(one[pair] for one in each)
            cells.append(f"{_short(statistics.median(values))} ({_short(values[0])} to {_short(values[-1])})")
        rows.append(f"| {pair} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _short(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 else f"{value:.0e}"


def main(argv: Sequence[str]) -> None:
    """Print the table.

    Args:
        argv: the command line's arguments.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.linear_attention", description=__doc__)
    parser.add_argument("--seeds", type=int, default=8, help="how many models of each kind")
    print(table(range(parser.parse_args(argv).seeds)))


if __name__ == "__main__":
    main(sys.argv[1:])
