"""The forward pass of training: many questions about one image through the stock language model.

Two passes of the stock decoder with 4-D masks: the context (prefix and image) into a cache, then the packed questions
behind it. The context is computed once for all of them, and no score of a context row with a question.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from .packing import attention_masks


def packed_hidden(
    decoder: Any,
    visual: Tensor,
    prefix: Tensor,
    prefix_pad: Tensor,
    gap: Tensor,
    tokens: Tensor,
    block: Tensor,
    offset: Tensor,
    image: Tensor | None = None,
    span: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Final hidden states of the text rows, [B, T, D]; in the middle of the decoder those of the visual tokens,
    [B, N, D], and of the text rows.

    decoder: the language model without its head. visual [B, N, D], prefix [B, P] padded on the left by prefix_pad [B]
    columns, gap [B] unused positions before the image; tokens, block and offset [B, T] as `packing.PackedText` has
    them. image [..., B, N]: position ids of the visual tokens, counted from the image's first; with a first dimension
    of 3 where ids have three axes; by default 0 to N - 1. span: how many ids the image takes, by default N.
    """
    embed = decoder.embed_tokens
    count, before = visual.shape[1], prefix.shape[1]
    if image is None:
        image = torch.arange(count, device=offset.device).expand(len(visual), count)
    start = before - prefix_pad + gap
    # Those of padding are never read.
    prefix_place = (torch.arange(before, device=offset.device) - prefix_pad[:, None]).clamp(min=0)
    image_place, text_place = start[:, None] + image, (start + (span or count))[:, None] + offset
    axes = image.shape[:-2]
    place = torch.cat([prefix_place.expand(*axes, -1, -1), image_place], -1)
    context_mask, text_mask = attention_masks(prefix_pad, block, count, before, visual.dtype)
    cache = DynamicCache(config=decoder.config)
    context = torch.cat([embed(prefix), visual], 1)
    seen = decoder(
        inputs_embeds=context, attention_mask=context_mask, position_ids=place, past_key_values=cache,
        output_hidden_states=True,
    )  # fmt: skip
    middle = len(seen.hidden_states) // 2
    after = {"position_ids": text_place.expand(*axes, -1, -1), "past_key_values": cache}
    told = decoder(inputs_embeds=embed(tokens), attention_mask=text_mask, **after, output_hidden_states=True)
    return told.last_hidden_state, seen.hidden_states[middle][:, before:], told.hidden_states[middle]
