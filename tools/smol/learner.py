"""The language model as it is trained: which of its weights learn, and where words that it did not know are kept."""

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.pocket_training.hints import Hints

from .packed import ATTENTION, packed_hidden
from .tower import Seer

# Attention finds things and places, everywhere; what a word is made of is left as it was, but for the first layers,
# through which visual tokens come in. So what is learnt is 43 million numbers and not 135.
LEARNING = re.compile(r"layers\.\d+\.(self_attn|input_layernorm|post_attention_layernorm)\.|^norm\.")
FIRST_LAYERS = 6


class GrownEmbedding(nn.Module):
    """Embeddings of the words that were known, which are kept, and of those that were added."""

    known: Tensor

    def __init__(self, known: Tensor, added: Tensor):
        super().__init__()
        self.register_buffer("known", known, persistent=False)
        self.added = nn.Parameter(added)

    def forward(self, ids: Tensor) -> Tensor:
        """long [...] to [..., D]"""
        count = len(self.known)
        is_added = ids >= count
        known = self.known[ids.clamp(max=count - 1)].to(self.added.dtype)
        return torch.where(is_added[..., None], F.embedding((ids - count).clamp(min=0), self.added), known)

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, D] to [N, V]"""
        return torch.cat([F.linear(hidden, self.known.to(hidden.dtype)), F.linear(hidden, self.added)], -1)


class Learner(nn.Module):
    """decoder: without its head. The tower of `seer` is kept as it is."""

    def __init__(self, seer: Seer, decoder: Any, added: Tensor, narrow: bool):
        """added [A, D]: embeddings of the added words. narrow: what does not learn is kept in bfloat16."""
        super().__init__()
        self.seer, self.decoder = seer, decoder
        known = decoder.embed_tokens.weight.detach()
        decoder.embed_tokens = GrownEmbedding(known.bfloat16() if narrow else known, added)
        decoder.set_attn_implementation(ATTENTION)
        decoder.requires_grad_(False)
        seer.tower.requires_grad_(False)
        first = min(FIRST_LAYERS, len(decoder.layers))
        for name, parameter in decoder.named_parameters():
            learns = LEARNING.search(name) or name.startswith(tuple(f"layers.{i}.mlp" for i in range(first)))
            if learns or name == "embed_tokens.added":
                parameter.requires_grad_(True)
            elif narrow:
                parameter.data = parameter.data.bfloat16()
        self.hints = Hints(decoder.config.hidden_size)

    def compile_layers(self) -> None:
        """Half the time of a step. One graph serves all layers that learn alike."""
        # Graphs: of what learns, times the shapes of batches, times with gradients or not.
        torch._dynamo.config.recompile_limit = 32
        for layer in self.decoder.layers:
            layer.compile(dynamic=False)

    def visual(self, pixels: Tensor) -> Tensor:
        """The visual tokens of images: [B, 81, D]."""
        with torch.no_grad():
            seen = self.seer.tower(pixels).last_hidden_state[:, 1:]
        return self.seer.projector(seen)

    def forward(self, pixels: Tensor, row: Tensor, column: Tensor, **text: Any) -> tuple[Tensor, tuple]:
        """Logits of what follows the text's tokens in these rows and columns, [N, V], and what `Hints` reads.

        text: further arguments of `packed_hidden`.
        """
        hidden, *middle = packed_hidden(self.decoder, self.visual(pixels), **text)
        return self.decoder.embed_tokens.logits(hidden[row, column]), tuple(middle)


def make_optimizer(learner: Learner, rate: float, new_rate: float) -> list[torch.optim.Optimizer]:
    """AdamW: `rate` for weights of the language model, `new_rate` for what is new; remembered as `set_rate` reads."""
    groups: dict[float, list[nn.Parameter]] = {rate: [], new_rate: []}
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            is_old = name.startswith("decoder.") and "added" not in name
            groups[rate if is_old else new_rate].append(parameter)
    listed = [{"params": params, "lr": each, "peak": each} for each, params in groups.items()]
    return [torch.optim.AdamW(listed, weight_decay=0.0, betas=(0.9, 0.95), fused=True)]
