"""FastV reads one row of attention: no layer's whole attention ever exists, as eager code would make it."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model

TOKENS = 5 * 24 * 24
HEADS = 4


class Largest(TorchDispatchMode):
    """The most elements that any float output of any operation has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if torch.is_tensor(leaf) and leaf.is_floating_point():
                self.elements = max(self.elements, leaf.numel())
        return output


def largest(model, inputs):
    with gp.prune(model, gp.FastV(keep=0.6)) as run, torch.no_grad(), Largest() as seen:
        model(**inputs, logits_to_keep=1)
    assert len(run.layout[0]) == TOKENS
    assert len(run.kept[0]) < TOKENS
    return seen.elements


def test_no_attention_of_all_rows_is_allocated():
    model = tiny_model("llava", side=24)
    inputs = tiny_inputs(model, [(5, 2, 4)])
    whole = HEADS * TOKENS**2
    assert largest(model, inputs) < whole / 4  # not for a single head either
    model.set_attn_implementation("eager")
    assert largest(model, inputs) >= whole
