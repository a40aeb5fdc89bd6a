"""Shikra (arXiv 2306.15195; github.com/shikras/shikra): CLIP ViT-L/14 at 224 pixels, one linear layer, LLaMA-7B.

It differs from LLaVA in its projector, in the tokens around an image, and in its white padding.
"""

from __future__ import annotations

from typing import Any

from PIL import Image
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaPreTrainedModel,
)

from groundprune.boxes.images import square
from groundprune.errors import GroundPruneError
from groundprune.models.tokenization import ONE_TURN, SegmentProcessor

EXTRA_TOKENS = ("<im_patch>", "<im_start>", "<im_end>")  # in the order of their ids, after the base's vocabulary
GENERATION = {"do_sample": False, "num_beams": 1, "max_new_tokens": 1024}  # the authors' evaluation of REC
CHAT_TEMPLATE = (
    '{{ "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, '
    "detailed, and polite answers to the user's questions.\" }}"
    f"{ONE_TURN}"
    # As in the authors' demo: the image goes in front, unless the text says where it belongs.
    "{% set image = '' if content is string or '<image>' in text"
    " or not content|selectattr('type', 'equalto', 'image')|list else '<image> ' %}"
    "{{ ' USER: ' + image + text }}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)


class ShikraConfig(LlavaConfig):
    """vision_feature_layer -2: the tower's last block but one, without the CLS token."""

    model_type = "shikra"

    image_token_index: int = 32000
    image_seq_length: int = 256

    def __post_init__(self, **kwargs: Any):
        if "mm_vision_tower" in kwargs:  # the authors' own config.json has the same model type
            raise GroundPruneError("a delta as Shikra's authors publish it; see `groundprune convert shikra --help`")
        if self.vision_config is None:
            self.vision_config = CLIPVisionConfig(
                hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                image_size=224, patch_size=14, projection_dim=768,
            )  # fmt: skip
        if self.text_config is None:
            self.text_config = LlamaConfig(vocab_size=32000 + len(EXTRA_TOKENS))
        super().__post_init__(**kwargs)


class ShikraModel(LlavaModel):
    """LlavaModel with a linear projector."""

    config_class = ShikraConfig

    def __init__(self, config: ShikraConfig):
        LlavaPreTrainedModel.__init__(self, config)  # LlavaModel's would build its projector of two layers
        vision: Any = config.vision_config
        text: Any = config.text_config
        self.vision_tower = AutoModel.from_config(vision)
        self.multi_modal_projector = nn.Linear(vision.hidden_size, text.hidden_size)
        self.language_model = AutoModel.from_config(text)
        self.post_init()


class ShikraForConditionalGeneration(LlavaForConditionalGeneration):
    """ShikraModel with a language modelling head."""

    config_class = ShikraConfig

    def __init__(self, config: ShikraConfig):
        LlavaPreTrainedModel.__init__(self, config)
        text: Any = config.text_config
        self.model = ShikraModel(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()


class ShikraProcessor(SegmentProcessor):
    """`<image>` anywhere in the text; images are padded to a square with white."""

    image_token = "<image>"
    placeholder_token, before_image, after_image = EXTRA_TOKENS
    strips = True
    padding_colour = (255, 255, 255)

    def prepare_image(self, image: Image.Image) -> Image.Image:
        own = self.image_processor
        return square(image, self.padding_colour, own.size["height"], own.resample)


AutoConfig.register("shikra", ShikraConfig)
AutoModelForImageTextToText.register(ShikraConfig, ShikraForConditionalGeneration)
AutoProcessor.register(ShikraConfig, ShikraProcessor)
