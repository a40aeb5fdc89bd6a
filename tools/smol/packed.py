"""The forward pass of training: many questions about one image in one row, through the layers of the stock decoder.

A row is the context (prefix and image) and behind it parts of text, each some whole questions, in one pass: matrix
products of few rows are slow. What cannot look at each other does not meet in attention: context at text, and part at
part. Every question starts at the position id that follows the image, as if it were alone.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

ATTENTION = "groundprune_packed"
FORBIDDEN = -1e4  # added to scores


def packed_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **unused: Any
) -> tuple[Tensor, None]:
    """As transformers calls it: query [B, H, C + T, D], key and value [B, G, C + T, D]; returns [B, C + T, H, D].

    attention_mask: the two of `masks`, of the context and of the parts.
    """
    causal, own = attention_mask
    (batch, heads, _, width), groups = query.shape, key.shape[1]
    shared, context, (parts, length) = heads // groups, causal.shape[-1], own.shape[1:3]
    query = query.view(batch, groups, shared, -1, width) * scaling
    # Heads that share keys are so many more rows of one product.
    seen, told = (each.flatten(2, 3) for each in query.split([context, parts * length], 3))
    near_key, near_value = (each[:, :, :context] for each in (key, value))
    scores = (seen @ near_key.transpose(2, 3)).view(batch, groups, shared, context, context)
    of_context = (scores + causal[:, None, None]).float().softmax(-1).to(value.dtype).flatten(2, 3) @ near_value

    by_part = (batch, groups, shared, parts, length)
    own_key, own_value = (each[:, :, context:].view(batch, groups, parts, length, width) for each in (key, value))
    mine = told.view(*by_part, width).transpose(2, 3).flatten(3, 4)
    on_own = (mine @ own_key.transpose(3, 4)).view(batch, groups, parts, shared, length, length).transpose(2, 3)
    on_context = (told @ near_key.transpose(2, 3)).view(*by_part, context)
    scores = torch.cat([on_context + causal[:, None, None, None, -1:], on_own + own[:, None, None]], -1)
    to_context, to_own = scores.float().softmax(-1).to(value.dtype).split([context, length], -1)
    of_own = to_own.transpose(2, 3).flatten(3, 4) @ own_value
    of_own = of_own.view(batch, groups, parts, shared, length, width).transpose(2, 3)
    of_text = (to_context.flatten(2, 4) @ near_value).view(*by_part, width) + of_own

    out = (of_context.view(batch, heads, context, width), of_text.reshape(batch, heads, parts * length, width))
    return torch.cat(out, 2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, packed_attention)


def masks(prefix_pad: Tensor, block: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """What is added to scores: of the context's rows and columns, [B, C, C], whose last row is that of all text, too;
    of each part's rows and columns, [B, P, L, L]."""
    column = torch.arange(context, device=block.device)
    real = column >= prefix_pad[:, None]
    # A padded row sees itself: it is read by no one, but it must not be empty.
    causal = (column[:, None] >= column) & real[:, None] | (column[:, None] == column)
    row = torch.arange(block.shape[-1], device=block.device)
    own = (block[..., :, None] == block[..., None, :]) & (row[:, None] >= row)
    return tuple(torch.zeros(each.shape, device=block.device).masked_fill(~each, FORBIDDEN) for each in (causal, own))  # type: ignore[return-value]


def packed_hidden(
    decoder: Any,
    visual: Tensor,
    prefix: Tensor,
    prefix_pad: Tensor,
    gap: Tensor,
    tokens: Tensor,
    block: Tensor,
    offset: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Final hidden states of the text, [B, P * L, D]; in the middle of the decoder those of the visual tokens,
    [B, N, D], and of the text.

    decoder: the language model without its head; its attention is ATTENTION. visual [B, N, D], prefix [B, C - N]
    padded on the left by prefix_pad [B] columns, gap [B] unused positions before the image; tokens, block (which
    question, -1 where padded) and offset (within it) [B, P, L].
    """
    embed, count, before = decoder.embed_tokens, visual.shape[1], prefix.shape[1]
    context = before + count
    start = (before - prefix_pad + gap)[:, None]
    # Ids of padding are never read.
    prefix_place = (torch.arange(before, device=offset.device) - prefix_pad[:, None]).clamp(min=0)
    image_place = start + torch.arange(count, device=offset.device)
    hidden = torch.cat([embed(prefix), visual, embed(tokens.flatten(1))], 1)
    place = torch.cat([prefix_place, image_place, start + count + offset.flatten(1)], 1)
    given = {"position_embeddings": decoder.rotary_emb(hidden, place)}
    given["attention_mask"] = masks(prefix_pad, block, context)
    middle = hidden
    for index, layer in enumerate(decoder.layers):
        middle = hidden if index == len(decoder.layers) // 2 else middle
        hidden = layer(hidden, **given)
    hidden = decoder.norm(hidden)
    return hidden[:, context:], middle[:, before:context], middle[:, context:]
