"""What all workers run on: LLaVA-1.5's plan, narrower. SIDE in the environment: patches along the image's edge.

Runs in the authors' environment too: it imports nothing but torch.
"""

import os

import torch

SIDE = int(os.environ["SIDE"])
N = SIDE * SIDE
LLM = {
    "vocab_size": 1000, "hidden_size": 1024, "intermediate_size": 2752, "num_hidden_layers": 8,
    "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
}  # fmt: skip
TOWER = {
    "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 4,
    "image_size": 14 * SIDE, "patch_size": 14,
}  # fmt: skip
BEFORE, AFTER, MOST = 35, 30, 4  # words around the image; prompts
IMAGE = 999
ROOT, DEVICE, ATTENTION = os.environ["ROOT"], os.environ["DEVICE"], os.environ["ATTENTION"]
WEIGHTS = f"{ROOT}/weights-{SIDE}.pt"

_generator = torch.Generator().manual_seed(0)
PIXELS = torch.randn(MOST, 3, 14 * SIDE, 14 * SIDE, generator=_generator).to(DEVICE)
_WORDS = torch.randint(5, 900, (MOST, BEFORE + AFTER), generator=_generator).to(DEVICE)


def prompts(rows, image):
    """Long[rows, L] of the prompts with these numbers. image: the ids that stand for it."""
    words = _WORDS[rows]
    middle = torch.tensor(image, device=DEVICE).expand(len(rows), -1)
    return torch.cat([words[:, :BEFORE], middle, words[:, BEFORE:]], 1)
