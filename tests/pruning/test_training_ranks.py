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


def together(folder, *stage):
    """What two processes found, see `support.ranks`."""
    out = folder / "found.pt"
    words = [sys.executable, "-m", "support.ranks"]
    running = []
    for rank in range(RANKS):
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": "",
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "DS_ACCELERATOR": "cpu",
        }  # fmt: skip
        command = [*words, str(rank), str(folder / "store"), str(out), *map(str, stage)]
        running.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
            )
        )
    said = [process.communicate(timeout=300)[0] for process in running]
    assert all(process.returncode == 0 for process in running), "\n".join(said)
    return torch.load(out)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Of DistributedDataParallel and fully_shard."""
    return together(tmp_path_factory.mktemp("ranks"))


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


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed(tmp_path, stage):
    """ZeRO stage 3 shards the weights, and gathers those of a module wherever it is called."""
    pytest.importorskip("deepspeed")
    moved = together(tmp_path, stage)
    for way, pruner in {"inputs": PRUNER, "context": PRUNER, "between layers": INSIDE}.items():
        assert_near(moved[way], wanted(pruner), 1e-4)  # a difference of weights that are larger
