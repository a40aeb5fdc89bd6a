"""One of two processes that train a model together: `python -m support.ranks RANK STORE OUT [STAGE]`, run by a test.

Each has one prompt. Rank 0 saves to OUT the gradient, averaged over both, by way of training; and what was refused.
With STAGE DeepSpeed trains, sharding as ZeRO's stage of that number does.
"""

import sys

import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from support.inside import LastRow
from support.training import words_labelled

RANKS = 2
PRUNER, INSIDE = gp.ClsVisual(keep=0.4), LastRow(keep=0.4)


def made():
    """The same in all processes."""
    return tiny_model("llava", layers=3)


def prompt(model, rank):
    """A row that no other rank has."""
    return words_labelled(model, tiny_inputs(model, [(1 + rank, 5, 7)], seed=rank))


def whole(model):
    """[P]: the gradient of all weights, gathered where they are sharded."""
    found = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in model.parameters()]
    return torch.cat([(each.full_tensor() if isinstance(each, DTensor) else each).flatten() for each in found])


def data_parallel(rank, way, pruner):
    model = made()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)  # as Trainer has it: the tower's last norm
    inputs = prompt(model, rank)
    if way == "inputs":
        loss = wrapped(**gp.prune_inputs(wrapped, inputs, pruner)).loss
    else:
        with gp.prune(wrapped, pruner):
            loss = wrapped(**inputs).loss
    loss.backward()
    return whole(model)


def sharded(rank, pruner):
    model = made()
    for layer in model.model.language_model.layers:
        fully_shard(layer)
    fully_shard(model)
    with gp.prune(model, pruner):
        loss = model(**prompt(model, rank)).loss
    loss.backward()
    return whole(model)


def refused():
    """By what works on a whole model alone."""
    model, said = made(), {}
    fully_shard(model)
    inputs = tiny_inputs(model, [(1, 5, 7)])
    calls = {
        "prune_inputs": lambda: gp.prune_inputs(model, inputs, PRUNER),
        "encode": lambda: gp.encode(model, inputs, [PRUNER]),
        "generate": lambda: model.generate(**inputs, max_new_tokens=1),
    }
    for name, call in calls.items():
        try:
            with gp.prune(model, PRUNER):
                call()
        except gp.Unservable as error:
            said[name] = str(error)
    return said


def engine(rank, way, stage):
    """What DeepSpeed moves the weights by, in a step of plain descent at rate 1."""
    import deepspeed

    model = made()
    settings = {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "gradient_clipping": 0.0,
        "zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }  # fmt: skip
    descent = torch.optim.SGD(model.parameters(), lr=1.0)
    wrapped, *_ = deepspeed.initialize(model=model, optimizer=descent, config=settings)
    start, inputs = weights(model), prompt(model, rank)
    if way == "inputs":
        loss = wrapped(**gp.prune_inputs(wrapped, inputs, PRUNER)).loss
    else:
        with gp.prune(wrapped, PRUNER if way == "context" else INSIDE):
            loss = wrapped(**inputs).loss
    wrapped.backward(loss)
    wrapped.step()
    return start - weights(model)


def weights(model):
    """[P], gathered where they are sharded."""
    from deepspeed.utils import safe_get_full_fp32_param

    return torch.cat([safe_get_full_fp32_param(weight).flatten().clone() for weight in model.parameters()])


def main(rank, store, out, stage=None):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    if stage is None:
        found = {
            "data parallel, inputs": data_parallel(rank, "inputs", PRUNER),
            "data parallel, context": data_parallel(rank, "context", PRUNER),
            "data parallel, between layers": data_parallel(rank, "context", INSIDE),
            "sharded, context": sharded(rank, PRUNER),
            "sharded, between layers": sharded(rank, INSIDE),
            "refused": refused(),
        }
    else:
        import deepspeed

        deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
        found = {way: engine(rank, way, stage) for way in ("inputs", "context", "between layers")}
    if rank == 0:
        torch.save(found, out)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
