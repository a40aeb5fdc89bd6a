"""A tiny model of each family, made once, with a left-padded batch of prompts of one, two and one images."""

import functools

import torch

from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import family_of
from groundprune.pruners import pruner_class, pruner_names
from groundprune.pruning.encoding import Encoded, encode_inputs
from groundprune.signals import VIDEO, Signals

ON_STILLS = [name for name in pruner_names() if VIDEO not in pruner_class(name).needs]
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
