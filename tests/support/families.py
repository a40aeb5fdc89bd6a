"""A tiny model of each family, made once, with a left-padded batch of prompts of one, two and one images."""

import functools

import torch
from transformers import AutoConfig

from groundprune.exactness.tiny import tiny_inputs, tiny_model, tiny_of
from groundprune.families import families, family_of
from groundprune.families.linear import linear_layers
from groundprune.pruners import pruner_class, pruner_names
from groundprune.pruning.encoding import Encoded, encode_inputs
from groundprune.signals import VIDEO, Signals

ON_STILLS = [name for name in pruner_names() if VIDEO not in pruner_class(name).needs]
# The others are refused stages inside of the LLM, see test_qwen3_5.py.
BETWEEN_LAYERS = [name for name, family in families().items() if not linear_layers(family.tiny_config())]
PROMPTS = [(1, 5, 7), (2, 2, 4), (1, 9, 3)]

model_of = functools.cache(tiny_model)


@functools.cache
def inputs_of(name):
    return tiny_inputs(model_of(name), PROMPTS)


@torch.no_grad()
def encoded(name, inputs, *needs):
    model = model_of(name)
    family = family_of(model.config)
    position = family.positions(model.model, inputs)
    outputs = encode_inputs(model.model, family, inputs, frozenset(needs))["mm_encoder_outputs"]
    return Encoded(family, model.config, outputs, inputs["input_ids"], position)


def signals_of(found):
    return [Signals(layout, row, found.record) for layout, row in zip(found.layouts, found.features, strict=True)]


def experts(name):
    """A tiny model of the family's kind with four experts, of which a token goes to two, and one for all."""
    plain = families()[name].tiny_config()
    text, vision = (
        {k: v for k, v in c.to_dict().items() if k != "model_type"} for c in (plain.text_config, plain.vision_config)
    )
    text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    text |= {"shared_expert_intermediate_size": 32}
    ids = {key: value for key, value in plain.to_dict().items() if key.endswith("_token_id")}
    return tiny_of(AutoConfig.for_model(f"{name}_moe", text_config=text, vision_config=vision, **ids))
