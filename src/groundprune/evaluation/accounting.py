"""What an answer costs the LLM, by formula: floating point operations, and bytes of the cache.

Convention, that of torch's FlopCounterMode: a multiply-add is 2 operations; matrix products alone are counted (linear
layers, and both products of attention), not norms, activations, rotary embeddings or look-ups. In attention every
query counts with every key, as if masks hid nothing, causal ones and those of sliding windows too. Counted is the
prompt of one sample alone, without padding, and what the stock model does: what choosing tokens adds is left out.

Linear attention counts its convolution, and three products of a token with the state: what is read of it, what is
written, what is answered. Kernels that take many tokens at a time do more. Of experts those that a token goes to.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from groundprune.families.base import family_of
from groundprune.families.linear import linear_layers

_STATE_BYTES = 4  # a recurrent state is in fp32, whatever the model is in


@dataclass(frozen=True)
class Layer:
    """What one decoder layer costs.

    Attributes:
        linear: operations per token, of all its linear layers.
        attention: operations per query and key.
        cache: bytes of a token's key and value.
        window: of sliding attention, in tokens; None = it sees all.
        state: bytes that linear attention holds, however many tokens there are.
    """

    linear: int
    attention: int
    cache: int
    window: int | None = None
    state: int = 0


@dataclass(frozen=True)
class Decoder:
    """What the LLM of a model costs.

    Attributes:
        layers: in their order.
        head: operations of one position's logits.
    """

    layers: tuple[Layer, ...]
    head: int

    @staticmethod
    def of(config: Any, value_bytes: int) -> Decoder:
        """Read off the modules that a config builds, without weights.

        Args:
            config: of a model of a known family.
            value_bytes: of a number in the cache.
        """
        with torch.device("meta"):
            model: Any = AutoModelForImageTextToText.from_config(copy.deepcopy(config), attn_implementation="eager")
        text = config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        active, linear = getattr(text, "num_experts_per_tok", None) or 0, linear_layers(config)
        found = []
        for index, layer in enumerate(model.get_decoder().layers):
            if index in linear:
                found.append(_recurrent(layer, _linear(layer, active), value_bytes))
                continue
            attention, cache = 4 * text.num_attention_heads * size, 2 * kv_heads * size * value_bytes
            found.append(Layer(_linear(layer, active), attention, cache, family_of(config).windows(config)[index]))
        return Decoder(tuple(found), _linear(model.get_output_embeddings()))

    def prefill_flops(self, slots: Sequence[int]) -> int:
        """Of one prompt, with the logits of its last position alone. slots: tokens that each layer reads."""
        each = zip(self.layers, slots, strict=True)
        return self.head + sum(n * (layer.linear + layer.attention * n) for layer, n in each)

    def decode_flops(self, held: Sequence[int], new_tokens: int) -> int:
        """Of the steps after the prefill, which gives the first of the new tokens.

        held: tokens in the cache of each layer after the prefill.
        """
        steps = range(1, new_tokens)
        found = len(steps) * self.head
        for layer, n in zip(self.layers, held, strict=True):
            keys = sum(min(n + step, layer.window or math.inf) for step in steps)
            found += len(steps) * layer.linear + layer.attention * int(keys)
        return found

    def cache_bytes(self, held: Sequence[int]) -> int:
        """Of keys, values and states after the prefill. held: tokens that a layer keeps; the latest if it slides."""
        each = zip(self.layers, held, strict=True)
        return sum(
            layer.state + layer.cache * (n if layer.window is None else min(n, layer.window - 1)) for layer, n in each
        )


@dataclass(frozen=True)
class Work:
    """What was done for one answer.

    Attributes:
        slots: (first decoder layer, tokens of the prompt that it and the next ones read, and that their cache held
            when the prefill was over), an entry per change.
        new_tokens: of the answer, the one that ends it included.
        tower_flops: of the vision tower and the projector; None where it is not known.
    """

    slots: Sequence[tuple[int, int, int]]
    new_tokens: int
    tower_flops: int | None

    def to_row(self, decoder: Decoder) -> dict[str, Any]:
        """`cost` of a row, see `groundprune.evaluation.results`."""
        read, held = self._by_layer(1, len(decoder.layers)), self._by_layer(2, len(decoder.layers))
        return {
            "slots": [list(run) for run in self.slots],
            "layer_tokens": round(sum(read) / len(read), 4),
            "new_tokens": self.new_tokens,
            "prefill_flops": decoder.prefill_flops(read),
            "decode_flops": decoder.decode_flops(held, self.new_tokens),
            "tower_flops": self.tower_flops,
            "kv_bytes": decoder.cache_bytes(held),
        }

    def _by_layer(self, entry: int, layers: int) -> list[int]:
        ends = [*(run[0] for run in self.slots[1:]), layers]
        return [run[entry] for run, end in zip(self.slots, ends, strict=True) for _ in range(run[0], end)]


def count_new(output: Tensor, ends: int | Sequence[int] | None) -> list[int]:
    """How many tokens an answer has, the one that ends it included; per row of what `generate` made, Long[B, S]."""
    stops = torch.tensor([] if ends is None else [ends] if isinstance(ends, int) else list(ends), dtype=output.dtype)
    ended = torch.isin(output.cpu(), stops)
    return torch.where(ended.any(1), ended.int().argmax(1) + 1, output.shape[1]).tolist()


def _linear(module: nn.Module, active: int = 0) -> int:
    """active: experts that a token goes to."""
    found = 0
    for part in module.modules():
        if isinstance(part, nn.Linear):
            found += 2 * part.in_features * part.out_features
        elif hasattr(part, "top_k") and isinstance(part.weight, nn.Parameter):  # the router
            found += 2 * part.weight.numel()
        elif isinstance(getattr(part, "gate_up_proj", None), nn.Parameter):  # experts side by side
            found += 2 * active * sum(weight[0].numel() for weight in part.parameters(recurse=False))
    return found


def _recurrent(layer: Any, linear: int, value_bytes: int) -> Layer:
    """A layer of linear attention. linear: operations per token of its linear layers."""
    mixer = layer.linear_attn
    window = mixer.conv_dim * mixer.conv_kernel_size
    state = mixer.num_v_heads * mixer.head_k_dim * mixer.head_v_dim
    return Layer(linear + 2 * window + 3 * 2 * state, 0, 0, state=window * value_bytes + state * _STATE_BYTES)
