"""A small stand-in for the pictures, the tokenizer and the models of `tools.smol`."""

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tools.smol.language import LanguagePlan
from tools.smol.learner import Learner
from tools.smol.names import named
from tools.smol.pictures import HELD_OUT_SET, Pictures
from tools.smol.tower import Seer, TowerPlan
from tools.smol.words import Words

TEST_SEED = 1_002_000_000
TOWER = TowerPlan(steps=4, batch=2, width=64, layers=1, warmup=1, compile=False)
LANGUAGE = LanguagePlan(
    steps=4, batch=2, early=2, rec=3, vqa=3, parts=2, length=128, warmup=1, checked=2, compile=False
)


def made_pictures():
    """Of one grey level each, told apart by it: trained sets are darker than 100, the held-out set is lighter."""
    rng = np.random.default_rng(0)

    def sprite(level):
        image = np.full((*rng.integers(30, 96, 2), 4), level, np.uint8)
        image[:, :, 3] = 255
        return image

    sprites = {
        each.name: {"a": [sprite(40), sprite(41)], "b": [sprite(60)], HELD_OUT_SET: [sprite(200)]} for each in named()
    }
    return Pictures(sprites, [np.full((300, 400, 3), 5 * i, np.uint8) for i in range(8)])


def byte_tokenizer():
    """Bytes, and the chat's marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    inner = Tokenizer(models.BPE({word: i for i, word in enumerate(marks + alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", extra_special_tokens={"start": "<|im_start|>"}
    )


def tiny_words():
    return Words(byte_tokenizer())


def config(words):
    return LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=words.known, tie_word_embeddings=True, head_dim=16,
    )  # fmt: skip


def decoder(words):
    torch.manual_seed(1)
    return LlamaForCausalLM(config(words)).model


def learner_of(words, narrow=False):
    model = decoder(words)
    added = words.grown(model.embed_tokens.weight.detach())
    learner = Learner(Seer(TOWER, config(words)), model, added, narrow)
    for parameter in learner.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=1.4 / parameter.shape[-1] ** 0.5)
    return learner
