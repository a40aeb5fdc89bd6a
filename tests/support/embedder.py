"""A CLIP text tower for tiny models."""

import torch

from groundprune.signals import TextEmbedder


class Embedder(TextEmbedder):
    """CLIP's two projections, drawn at random."""

    def __init__(self, width=32):
        self.projection = torch.randn(width, 16, generator=torch.Generator().manual_seed(5))

    def text(self, text):
        return torch.randn(1, 16, generator=torch.Generator().manual_seed(len(text)))

    def patches(self, hidden):
        return hidden.float() @ self.projection
