"""MiniGPT-v2 (arXiv 2310.09478; github.com/Vision-CAIR/MiniGPT-4): EVA-CLIP ViT-g/14 at 448 pixels, Llama-2-7B-chat.

32 x 32 patches; each 4 consecutive ones of a row are joined and projected to one token of the LLM: 32 x 8 tokens.
The tower is transformers' InstructBLIP vision model without its final norm.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaPreTrainedModel,
)

from groundprune.models.tokenization import ONE_TURN, SegmentProcessor

PATCHES_PER_TOKEN = 4
EXTRA_TOKENS = ("<ImageHere>",)  # the authors splice embeddings in; here a token of its own holds their place
GENERATION = {"do_sample": False, "num_beams": 1, "max_new_tokens": 20, "min_length": 1}  # the authors' evaluation
CHAT_TEMPLATE = (
    f"{ONE_TURN}"
    "{% set image = '' if content is string or not content|selectattr('type', 'equalto', 'image')|list"
    " else '<Img><ImageHere></Img> ' %}"
    "{{ '<s>[INST] ' + image + text + ' [/INST]' }}"
)


class MiniGPTv2Config(LlavaConfig):
    """vision_feature_layer -1: the raw output of the tower's last block, without the CLS token."""

    model_type = "minigpt_v2"

    image_token_index: int = 32000
    image_seq_length: int = 256
    vision_feature_layer: int | list[int] = -1

    def __post_init__(self, **kwargs: Any):
        if self.vision_config is None:
            self.vision_config = InstructBlipVisionConfig(image_size=448)
        if self.text_config is None:
            self.text_config = LlamaConfig(
                vocab_size=32000 + len(EXTRA_TOKENS), max_position_embeddings=4096, rms_norm_eps=1e-5
            )
        super().__post_init__(**kwargs)


class MiniGPTv2Projector(nn.Module):
    """Norm, join 4 consecutive patches, project."""

    def __init__(self, config: MiniGPTv2Config):
        super().__init__()
        vision: Any = config.vision_config
        text: Any = config.text_config
        self.norm = nn.LayerNorm(vision.hidden_size, eps=1e-5)
        self.linear = nn.Linear(PATCHES_PER_TOKEN * vision.hidden_size, text.hidden_size)

    def forward(self, patches: Tensor) -> Tensor:
        """[B, P, C] -> [B, P / 4, D]; P in raster order, rows of a multiple of 4 patches."""
        images, count, width = patches.shape
        strips = self.norm(patches).reshape(images, count // PATCHES_PER_TOKEN, PATCHES_PER_TOKEN * width)
        return self.linear(strips)


def eva_tower(config: Any) -> InstructBlipVisionModel:
    """EVA ViT-g as MiniGPT-v2 runs it: no norm at its end, the projector has the only one."""
    tower: Any = InstructBlipVisionModel(config)
    tower.post_layernorm = nn.Identity()
    return tower


class MiniGPTv2Model(LlavaModel):
    """LlavaModel with EVA ViT-g and a projector that joins patches."""

    config_class = MiniGPTv2Config

    def __init__(self, config: MiniGPTv2Config):
        LlavaPreTrainedModel.__init__(self, config)  # LlavaModel's would build its own projector
        self.vision_tower = eva_tower(config.vision_config)
        self.multi_modal_projector = MiniGPTv2Projector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()


class MiniGPTv2ForConditionalGeneration(LlavaForConditionalGeneration):
    """MiniGPTv2Model with a language modelling head."""

    config_class = MiniGPTv2Config

    def __init__(self, config: MiniGPTv2Config):
        LlavaPreTrainedModel.__init__(self, config)
        text: Any = config.text_config
        self.model = MiniGPTv2Model(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()


class MiniGPTv2Processor(SegmentProcessor):
    """`<ImageHere>` between `<Img>` and `</Img>`, which are plain text; images are squeezed to a square.

    Two BOS: the authors' prompt spells `<s>`, and their tokenizer adds another.
    """

    image_token = placeholder_token = EXTRA_TOKENS[0]
    beginnings = 2


AutoConfig.register("minigpt_v2", MiniGPTv2Config)
AutoModelForImageTextToText.register(MiniGPTv2Config, MiniGPTv2ForConditionalGeneration)
AutoProcessor.register(MiniGPTv2Config, MiniGPTv2Processor)
