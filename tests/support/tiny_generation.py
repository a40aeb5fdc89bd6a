"""Generation on tiny models, for tests that compare logits."""

import functools

import torch

import groundprune as gp
from groundprune.exactness.tiny import tiny_model
from groundprune.families.tiny_parts import IMAGE, VIDEO

TOLERANCE, CONTROL = 1e-5, 1e-2
PRUNER = gp.ClsVisual(keep=0.4)

model_of = functools.cache(tiny_model)


def generate(model, inputs, **options):
    """Five greedy tokens by default, with logits."""
    torch.manual_seed(3)
    settings = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    # A random model may say a placeholder, which a prefill of all columns (no cache) would take for an image.
    return model.generate(**{**inputs, **settings, "suppress_tokens": [VIDEO, IMAGE], **options})
