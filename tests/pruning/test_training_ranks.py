"""Two processes that train one model together: their gradients are the mean of what the oracle gives for each."""

import os
import subprocess
import sys

import pytest
import torch

from groundprune.exactness.verify import relative_difference
from support.closeness import assert_apart, assert_near
from support.generating import CONTROL, TOLERANCE
from support.ranks import INSIDE, PRUNER, RANKS, made, prompt
from support.training import by_context, by_oracle


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both processes found, see `support.ranks`."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-m", "support.ranks"]
    running = [
        subprocess.Popen(
            [*words, str(rank), str(folder / "store"), str(folder / "found.pt")], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(RANKS)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in running]
    assert all(process.returncode == 0 for process in running), "\n".join(said)
    return torch.load(folder / "found.pt")


def wanted(pruner):
    model, total = made(), 0
    for rank in range(RANKS):
        inputs = prompt(model, rank)
        _, _, pruned = by_context(model, inputs, pruner)
        total = total + by_oracle(model, inputs, pruned)[1]
    return total / RANKS


@pytest.mark.parametrize(
    ("pruner", "ways"),
    [(PRUNER, ["data parallel, inputs", "data parallel, context", "sharded, context"]),
     (INSIDE, ["data parallel, between layers", "sharded, between layers"])],
    ids=["before the LLM", "between layers"],
)  # fmt: skip
def test_gradients_are_the_mean_of_the_oracles(found, pruner, ways):
    gradient = wanted(pruner)
    for way in ways:
        assert_near(found[way], gradient, TOLERANCE)
    model = made()
    assert_apart(by_context(model, prompt(model, 0), pruner)[1], gradient, CONTROL)  # of one process alone


def test_what_runs_the_tower_outside_of_a_sharded_models_forward_is_refused(found):
    assert found["refused"].keys() == {"prune_inputs", "encode", "generate"}
    assert all(
        "call the model inside of `with gp.prune(model, pruner)`" in said for said in found["refused"].values()
    )
    assert relative_difference([found["sharded, context"]], [found["data parallel, context"]]) < TOLERANCE
