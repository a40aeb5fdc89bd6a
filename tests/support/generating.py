"""How tests generate, and what pruning must leave as it was."""

from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from groundprune.exactness.oracle import hidden_columns, hide
from groundprune.families.tiny_parts import IMAGE

GREEDY = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
TOLERANCE = 1e-5


def generate(model, inputs, **options):
    # Without a cache a placeholder that the random model says would be taken for an image.
    return model.generate(**inputs, **{"max_new_tokens": 6, "suppress_tokens": [IMAGE], **GREEDY, **options})


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
        sorted(vars(model.model)),
    )
