"""The trained model as one stock `LlavaForConditionalGeneration`."""

import copy
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from .learner import Learner
from .model import llava_config
from .words import Words


def assemble(learner: Learner, words: Words) -> LlavaForConditionalGeneration:
    """A model of its own, in float32; the learner stays as it is."""
    text = copy.deepcopy(learner.decoder.config)
    text.vocab_size, text._attn_implementation = len(words), None
    text.name_or_path = ""  # a folder of this machine
    model: Any = LlavaForConditionalGeneration(llava_config(learner.seer.tower.config, text, words.image))
    grown = learner.decoder.embed_tokens
    weights = {k: v for k, v in learner.decoder.state_dict().items() if not k.startswith("embed_tokens.")}
    weights["embed_tokens.weight"] = torch.cat([grown.known.float(), grown.added])
    model.model.language_model.load_state_dict(weights)
    model.model.vision_tower.load_state_dict(learner.seer.tower.state_dict())
    model.model.multi_modal_projector.load_state_dict(learner.seer.projector.state_dict())
    model.tie_weights()
    model.generation_config.update(eos_token_id=words.end, pad_token_id=words.end, max_new_tokens=16)
    return model.eval()
