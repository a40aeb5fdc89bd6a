"""The forward pass of training: many questions about one image through the stock language model.

Two passes of the stock Llama with 4-D masks: the context (prefix and image) into a cache, then the packed questions
behind it. The context is computed once for all of them, and no score of a context row with a question.
"""

import torch
from torch import Tensor
from transformers import DynamicCache, LlavaForConditionalGeneration

from .packing import attention_masks


def packed_hidden(
    llava: LlavaForConditionalGeneration,
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
    llama, embed = llava.model.language_model, llava.model.language_model.embed_tokens
    visual, before = features.shape[1], prefix.shape[1]
    column = torch.arange(before + visual, device=offset.device)
    # Those of padding are never read.
    place = (column[None] - prefix_pad[:, None]).clamp(min=0) + gap[:, None] * (column >= before)
    context_mask, text_mask = attention_masks(prefix_pad, block, visual, before, features.dtype)
    cache = DynamicCache(config=llama.config)
    context = torch.cat([embed(prefix), llava.model.multi_modal_projector(features)], 1)
    llama(inputs_embeds=context, attention_mask=context_mask, position_ids=place, past_key_values=cache)
    after = {"position_ids": place[:, -1:] + 1 + offset, "past_key_values": cache}
    return llama(inputs_embeds=embed(tokens), attention_mask=text_mask, **after).last_hidden_state
