"""The forward pass of training: packed rows through the stock model's own modules.

Same weights, same arithmetic, less of it than the stock forward pass would need for a packed row: the context
(prefix and image) attends to itself only, and its rows are not carried through what no text row reads.
"""

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from .packing import attention_masks


class PackedLlava(nn.Module):
    """The stock model, run on packed rows."""

    def __init__(self, llava: LlavaForConditionalGeneration, compile: bool = False):
        super().__init__()
        self.llava = llava
        self.run_layers = torch.compile(self._layers, dynamic=False) if compile else self._layers

    def forward(
        self,
        features: Tensor,
        prefix: Tensor,
        prefix_pad: Tensor,
        gap: Tensor,
        tokens: Tensor,
        block: Tensor,
        offset: Tensor,
    ) -> Tensor:
        """Final hidden states of the text rows: [B, T, D].

        features [B, N, tower width], prefix [B, P] padded on the left by prefix_pad [B] columns, gap [B] unused
        positions before the image; tokens, block and offset [B, T] as `packing.PackedText` has them.
        """
        visual = features.shape[1]
        position = self._positions(prefix.shape[1], prefix_pad, gap, visual, offset)
        # Angles and masks stay out of what is compiled: it would make them anew in every layer.
        cos, sin = self.llava.model.language_model.rotary_emb(features, position_ids=position)
        masks = attention_masks(prefix_pad, block, visual, prefix.shape[1], features.dtype)
        return self.run_layers(features, prefix, tokens, (cos, sin), masks)

    def _layers(self, features: Tensor, prefix: Tensor, tokens: Tensor, rotary, masks) -> Tensor:
        model = self.llava.model
        llama, embed = model.language_model, model.language_model.embed_tokens
        context = prefix.shape[1] + features.shape[1]
        hidden = torch.cat([embed(prefix), model.multi_modal_projector(features), embed(tokens)], 1)
        for layer in llama.layers[:-1]:
            hidden = self._layer(layer, hidden, rotary, masks, context)
        return llama.norm(self._last_layer(llama.layers[-1], hidden, rotary, masks[1], context))

    @staticmethod
    def _positions(prefix: int, prefix_pad: Tensor, gap: Tensor, visual: int, offset: Tensor) -> Tensor:
        """Position ids [B, P + N + T]; those of padding are never read."""
        column = torch.arange(prefix + visual, device=offset.device)
        context = (column[None] - prefix_pad[:, None]).clamp(min=0) + gap[:, None] * (column >= prefix)
        return torch.cat([context, (prefix + visual - prefix_pad + gap)[:, None] + offset], 1)

    @staticmethod
    def _heads(attention, states: Tensor, rotary, first_query: int):
        """Queries (from a column on), keys and values: [B, heads, rows, head width]."""
        split = (len(states), -1, attention.config.num_attention_heads, attention.head_dim)
        query = attention.q_proj(states[:, first_query:]).view(split).transpose(1, 2)
        key = attention.k_proj(states).view(split).transpose(1, 2)
        value = attention.v_proj(states).view(split).transpose(1, 2)
        cos, sin = rotary
        if first_query:
            query, _ = apply_rotary_pos_emb(query, query, cos[:, first_query:], sin[:, first_query:])
            key, _ = apply_rotary_pos_emb(key, key, cos, sin)
        else:
            query, key = apply_rotary_pos_emb(query, key, cos, sin)
        return query, key, value

    @staticmethod
    def _attend(attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """[B, rows, D]"""
        scores = query @ key.transpose(2, 3) * attention.scaling + mask
        mixed = scores.float().softmax(-1).to(value.dtype) @ value
        return mixed.transpose(1, 2).flatten(2)

    def _layer(self, layer, hidden: Tensor, rotary, masks, context: int) -> Tensor:
        attention = layer.self_attn
        query, key, value = self._heads(attention, layer.input_layernorm(hidden), rotary, 0)
        seen = self._attend(attention, query[:, :, :context], key[:, :, :context], value[:, :, :context], masks[0])
        asked = self._attend(attention, query[:, :, context:], key, value, masks[1])
        hidden = hidden + attention.o_proj(torch.cat([seen, asked], 1))
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    def _last_layer(self, layer, hidden: Tensor, rotary, mask: Tensor, context: int) -> Tensor:
        """The same for text rows only: nothing reads the context after this layer."""
        attention = layer.self_attn
        query, key, value = self._heads(attention, layer.input_layernorm(hidden), rotary, context)
        text = hidden[:, context:] + attention.o_proj(self._attend(attention, query, key, value, mask))
        return text + layer.mlp(layer.post_attention_layernorm(text))

    def logits(self, hidden: Tensor) -> Tensor:
        return self.llava.lm_head(hidden)
