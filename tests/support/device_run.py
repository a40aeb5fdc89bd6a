"""Prefills and greedy generation on a device that is not there, against the CPU: python -m support.device_run."""

import json
import sys
import traceback

import torch

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.pruners import make_pruner
from support.closeness import difference
from support.elsewhere import elsewhere, moved


def generated(model, inputs, pruner, positions):
    """Logits of three greedy steps, and the sequences; without a pruner the stock model's."""
    options = dict(max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True)
    if pruner is None:
        return model.generate(**inputs, **options)
    with gp.prune(model, pruner, positions):
        return model.generate(**inputs, **options)


def run(family, names, positions="preserved"):
    """Per pruner: how far logits are from the CPU's, and what waited in `forward`; "stock" without one."""
    model = tiny_model(family)
    inputs = tiny_inputs(model, [(1, 5, 7), (1, 3, 6)])
    pruners = {name: make_pruner(name, "0.5") for name in names}
    wanted = {name: generated(model, inputs, pruner, positions) for name, pruner in pruners.items()}
    found = {}
    with torch.no_grad(), elsewhere() as waits:
        moved(model)
        there = {name: value.to("elsewhere") if torch.is_tensor(value) else value for name, value in inputs.items()}
        waits.clear()
        model(**there)
        found["stock"] = {"waits": dict(waits)}
        for name, pruner in pruners.items():
            try:
                output = generated(model, there, pruner, positions)
                apart = max(
                    difference(a.held, b) for a, b in zip(output.logits, wanted[name].logits, strict=True)
                )
                waits.clear()
                with gp.prune(model, pruner, positions):
                    model(**there)
                found[name] = {"apart": apart, "waits": dict(waits)}
            except Exception:
                found[name] = {"error": traceback.format_exc()}
    return found


if __name__ == "__main__":
    json.dump(run(sys.argv[1], sys.argv[2].split(","), *sys.argv[3:]), sys.stdout)
