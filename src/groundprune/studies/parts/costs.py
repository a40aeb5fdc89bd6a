"""What an answer costs the LLM: time of the prefill and of a token, memory at the peak, bytes of the cache.

Images are encoded before, so that what differs between two variants is the LLM's work alone. Variants take turns
within a repetition, and only ratios within one are told: what else the machine does slows all of them alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundprune.families import family_of
from groundprune.pruners import make_pruner
from groundprune.pruning.encode_once import EncodedImages, encode
from groundprune.pruning.inputs import prune_inputs
from groundprune.pruning.plan import unwrapped
from groundprune.studies.parts.meters import kv_bytes, peak, seconds

PRESERVED, REASSIGNED, NATIVE = VARIANTS = ("preserved", "reassigned", "native")
UNPRUNED, AGAIN = "unpruned", "unpruned again"
KEEPS = ("0.75", "0.5", "0.25", "0.1")
PREFILL, DECODE, CHOOSE = "prefill", "decode", "choose"
MEMORY, KV, SLOTS = "memory", "kv", "slots"
PRUNER = "random"  # what is kept changes no cost; what choosing costs is told apart
TOKENS = 4  # that are decoded
_LONG = 0.2  # seconds that a measurement should last
Cells = dict[str, dict[str, float]]


class Bill:
    """One model and one prompt, in every variant at every keep.

    Args:
        model: a transformers model of a known family.
        inputs: what its processor gives for one prompt with one image.
        keeps: shares of the visual tokens.

    Raises:
        Unservable: the model's inputs cannot be encoded ahead or pruned.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Any], keeps: Sequence[str] = KEEPS):
        self.model, self.keeps = unwrapped(model), tuple(keeps)
        self._family = family_of(self.model.config)
        encoded = encode(self.model, dict(inputs), [make_pruner(PRUNER, keep) for keep in keeps])
        self._words = {name: value for name, value in inputs.items() if "pixel" not in name}
        position = self._family.positions(self.model.base_model, self._words)
        self._whole = {**self._words, "mm_encoder_outputs": encoded.select([0])}
        self.fed: dict[str, dict[str, Any]] = {UNPRUNED: {**self._whole, "position_ids": _as_given(position)}}
        self.visual: dict[str, int] = {}
        for keep in keeps:
            for policy in (PRESERVED, REASSIGNED):
                short = self.choose(keep, policy)
                self.fed[cell(policy, keep)] = dict(short)
                self.visual[keep] = len(short.kept[0])
            self.fed[cell(NATIVE, keep)] = self._native(encoded, self.visual[keep], len(position))
        self.fed = {name: _without_grids(fed) for name, fed in self.fed.items()}

    def choose(self, keep: str, policy: str) -> Any:
        """Which tokens stay, with which ids, and the inputs without the others: all that pruning adds."""
        return prune_inputs(self.model, self._whole, make_pruner(PRUNER, keep), policy, window="tokens")

    def _native(self, encoded: EncodedImages, count: int, axes: int) -> dict[str, Any]:
        """A prompt whose image has so many tokens to begin with: nothing was dropped from it, ids have no gaps."""
        ids = self._words["input_ids"]
        token = self._family.token_ids(self.model.config)["image"]
        image = (ids[0] == token).nonzero().squeeze(1)
        stays = torch.ones_like(ids[0], dtype=torch.bool)
        stays[image[count:]] = False
        columns = {n: v[:, stays] for n, v in self._words.items() if torch.is_tensor(v) and v.shape == ids.shape}
        output = encoded.select([0])["image"]
        features = output.pooler_output
        features = features[:, :count] if torch.is_tensor(features) else [features[0][:count]]
        fewer = type(output)(pooler_output=features)
        if getattr(output, "deepstack_features", None) is not None:
            fewer.deepstack_features = [[level[0][:count]] for level in output.deepstack_features]
        position = torch.arange(int(stays.sum()), device=ids.device).expand(axes, 1, -1)
        return {**columns, "mm_encoder_outputs": {"image": fewer}, "position_ids": _as_given(position)}

    @torch.inference_mode()
    def about(self) -> dict[str, Any]:
        """Shapes, and per cell the slots of the prompt, the bytes of its cache and memory at the peak.

        memory: bytes above what was there before, weights and inputs; over prefill and decoding. inner: runs
        that make a measurement long enough to be timed.
        """
        cells: dict[str, dict[str, int]] = {}
        for name, fed in self.fed.items():
            memory, kv = peak(lambda fed=fed: self.run(fed)[1], self.model.device)
            cells[name] = {SLOTS: int(fed["input_ids"].shape[1]), KV: kv, MEMORY: memory}
        config = self.model.config.get_text_config()
        self.run(self.fed[UNPRUNED])
        taken = sum(self.run(self.fed[UNPRUNED])[0].values())
        return {
            "cells": cells, "visual": self.visual, "inner": max(1, min(20, round(_LONG / max(taken, 1e-9)))),
            "layers": config.num_hidden_layers, "width": config.hidden_size,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type, "threads": torch.get_num_threads(),
        }  # fmt: skip

    @torch.inference_mode()
    def repetition(self, seed: int, inner: int = 1) -> Cells:
        """Seconds by cell: every cell once, keeps and variants in a random order, the unpruned first and last.

        inner: runs that are averaged.
        """
        random, found = np.random.default_rng(seed), dict[str, dict[str, float]]()
        found[UNPRUNED] = self._mean(UNPRUNED, inner)
        for keep in random.permutation(self.keeps):
            for variant in random.permutation(VARIANTS):
                found[cell(variant, keep)] = self._mean(cell(variant, keep), inner)
            for policy in random.permutation((PRESERVED, REASSIGNED)):
                found[cell(policy, keep)][CHOOSE] = min(self._choosing(keep, policy) for _ in range(3))
        found[AGAIN] = self._mean(UNPRUNED, inner)
        return found

    def _choosing(self, keep: str, policy: str) -> float:
        return seconds(lambda: self.choose(str(keep), str(policy)), self.model.device)[0]

    def _mean(self, name: str, inner: int) -> dict[str, float]:
        runs = [self.run(self.fed[name])[0] for _ in range(inner)]
        return {what: sum(run[what] for run in runs) / inner for what in (PREFILL, DECODE)}

    def run(self, fed: Mapping[str, Any]) -> tuple[dict[str, float], int]:
        """Prefill, then TOKENS more; seconds of the prefill and per token, and the bytes of the prompt's cache."""
        device = self.model.device
        prefill, out = seconds(lambda: self.model(**fed, use_cache=True, logits_to_keep=1), device)
        cache = out.past_key_values
        kv = kv_bytes(cache)
        word, mask = fed["input_ids"][:, -1:], fed["attention_mask"]
        last = fed["position_ids"][..., -1:]
        extra = {"mm_token_type_ids": torch.zeros_like(word)} if "mm_token_type_ids" in fed else {}

        def decode() -> None:
            longer = mask
            for step in range(1, TOKENS + 1):
                longer = torch.cat([longer, torch.ones_like(word)], dim=1)
                self.model(
                    input_ids=word, attention_mask=longer, position_ids=last + step, past_key_values=cache,
                    use_cache=True, logits_to_keep=1, **extra,
                )  # fmt: skip

        taken, _ = seconds(decode, device)
        return {PREFILL: prefill, DECODE: taken / TOKENS}, kv


def cell(variant: str, keep: str) -> str:
    """What a variant at a keep is called."""
    return f"{variant} {keep}"


def _as_given(position: Tensor) -> Tensor:
    return position if len(position) > 1 else position[0]


def _without_grids(fed: Mapping[str, Any]) -> dict[str, Any]:
    """Without what speaks of pixels: images are encoded, ids are given."""
    return {name: value for name, value in fed.items() if not name.endswith(("_thw", "image_sizes"))}
