"""How tests generate, and what pruning must leave as it was."""

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import groundprune as gp
from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.families.tiny_parts import IMAGE, VIDEO

GREEDY = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
MODES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "samples": {"do_sample": True, "num_return_sequences": 2, "top_k": 20},
    "no cache": {"use_cache": False},
    "drafts": {"prompt_lookup_num_tokens": 3},
    "static": {"cache_implementation": "static"},
}
TOLERANCE, CONTROL = 1e-5, 1e-2  # what is the same is nearer than the one, what is not is farther than the other
PRUNER = gp.ClsVisual(keep=0.4)


def generate(model, inputs, **options):
    """Six greedy tokens by default, with logits."""
    torch.manual_seed(3)
    # A random model may say a placeholder, which a prefill of all columns (no cache) would take for an image.
    return model.generate(**{**inputs, "max_new_tokens": 6, "suppress_tokens": [VIDEO, IMAGE], **GREEDY, **options})


def oracle(model, run, inputs, **options):
    """The unpruned prompt under a mask that hides what a run dropped."""
    with hide(model, hidden_columns(run.prompt)):
        return generate(model, inputs, **options)


def snapshot(model):
    """All that a context may change: hooks, attributes, registered attention. Compare two of them."""
    return (
        dict(ALL_ATTENTION_FUNCTIONS._local_mapping),
        {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()},
        sorted(vars(model)),
        {name: str(value) for name, value in vars(model.base_model).items() if name != "_modules"},
    )
