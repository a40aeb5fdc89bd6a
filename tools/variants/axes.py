"""A stock Qwen2-VL with the variants' tower: ids on three axes (time, row, column), or the same count on all three.

On equal axes M-RoPE is 1-D RoPE exactly, so that both variants are one architecture and differ in their ids alone.
"""

import math
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPVisionModel, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from groundprune.pocket.scenes import IMAGE_SIZE
from tools.pocket_training.language import Lesson
from tools.pocket_training.model import llava_config
from tools.pocket_training.packed_model import packed_hidden
from tools.pocket_training.vocabulary import BOS, EOS, IMAGE, LM_IDS, PAD

from .lessons import SMALL

# Of Qwen2-VL's code heads are as wide as the states divided by their number.
DECODER = replace(SMALL, heads=SMALL.width // SMALL.head)
# Pair by pair in turn, from the fastest to the slowest, so that each axis has fast ones and slow ones.
SECTIONS = [1] * (DECODER.head // 2)
FRAMES = 2  # Qwen's processor says a picture twice, as a video of one step


@dataclass(frozen=True)
class Axes(Lesson):
    """split: whether rows and columns have axes of their own."""

    split: bool

    def model(self, clip: CLIPModel) -> Any:
        vision: Any = clip.config.vision_config
        text = llava_config(vision, DECODER).text_config
        config = Qwen2VLConfig(
            text_config={
                **{name: getattr(text, name) for name in _SAME},
                "rope_parameters": {"rope_type": "default", "rope_theta": SMALL.theta, "mrope_section": SECTIONS},
                "use_sliding_window": False,
            },
            vision_config={
                "depth": 1, "embed_dim": 16, "num_heads": 1, "hidden_size": SMALL.width, "mlp_ratio": 1,
                "patch_size": vision.patch_size, "spatial_merge_size": 1, "temporal_patch_size": FRAMES,
            },
            image_token_id=LM_IDS[IMAGE], video_token_id=len(LM_IDS), tie_word_embeddings=True,
        )  # fmt: skip
        model: Any = Qwen2VLForConditionalGeneration(config)
        model.model.visual = Tower(clip, vision.patch_size)
        if not self.split:
            model.model.get_rope_index = MethodType(_one_axis, model.model)
        model.generation_config.update(
            bos_token_id=LM_IDS[BOS], eos_token_id=LM_IDS[EOS], pad_token_id=LM_IDS[PAD], max_new_tokens=16
        )
        return model

    def tower(self, model: Any) -> Any:
        return model.model.visual.vision_tower

    def visual(self, model: Any, features: Tensor) -> Tensor:
        return model.model.visual.projector(features)

    def hidden(self, model: Any, visual: Tensor, **batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        side = math.isqrt(visual.shape[1])
        cell = torch.arange(side * side, device=visual.device)
        axes = torch.stack([torch.zeros_like(cell), cell // side, cell % side]) if self.split else cell.expand(3, -1)
        image = axes[:, None].expand(-1, len(visual), -1)
        return packed_hidden(model.model.language_model, visual, **batch, image=image, span=int(axes.max()) + 1)


_SAME = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings", "bos_token_id",
    "eos_token_id", "pad_token_id",
)  # fmt: skip


class Tower(nn.Module):
    """In place of Qwen's tower: ours, which gets the pixels back from Qwen's patches, and a projector."""

    spatial_merge_size = 1

    def __init__(self, clip: CLIPModel, patch: int):
        super().__init__()
        self.patch = patch
        vision: Any = clip.config.vision_config
        self.vision_tower = CLIPVisionModel(vision)
        self.vision_tower.load_state_dict(clip.vision_model.state_dict())
        self.vision_tower.requires_grad_(False)
        self.projector = nn.Sequential(
            nn.Linear(vision.hidden_size, SMALL.width), nn.GELU(), nn.Linear(SMALL.width, SMALL.width)
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, hidden_states: Tensor, grid_thw: Tensor, **options: Any) -> BaseModelOutputWithPooling:
        """hidden_states [images * side^2, 3 * 2 * patch^2], as Qwen's processor makes them."""
        side = IMAGE_SIZE // self.patch
        patches = hidden_states.view(-1, side, side, 3, FRAMES, self.patch, self.patch)[:, :, :, :, 0]
        pixels = patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)
        features = self.vision_tower(pixels).last_hidden_state[:, 1:]
        return BaseModelOutputWithPooling(
            last_hidden_state=features.flatten(0, 1), pooler_output=self.projector(features).flatten(0, 1)
        )


def _one_axis(base: Any, input_ids: Tensor, mm_token_type_ids: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
    """`get_rope_index` of a model whose ids count the tokens, on all three axes alike."""
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(input_ids) if mask is None else mask
    ids = (mask.cumsum(-1) - 1).clamp(min=0)
    delta = ids.amax(-1, keepdim=True) + 1 - input_ids.shape[1]
    return ids.expand(3, -1, -1), delta
