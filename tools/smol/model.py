"""The shapes of the model: a stock `LlavaForConditionalGeneration` with a small CLIP tower of ours."""

from typing import Any

from transformers import CLIPVisionConfig, LlavaConfig

from .scenes import GRID, IMAGE_SIZE, PATCH_SIZE

TOWER_WIDTH = 256


def vision_config(width: int = TOWER_WIDTH, layers: int = 6) -> CLIPVisionConfig:
    """Of the tower; with learned position embeddings, as CLIP has them."""
    return CLIPVisionConfig(
        hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers, num_attention_heads=width // 64,
        image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, hidden_act="gelu",
    )  # fmt: skip


def llava_config(vision: CLIPVisionConfig, text: Any, image: int) -> LlavaConfig:
    """Of the whole. text: of the language model, its vocabulary grown already; image: the id of the token."""
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image,
        projector_hidden_act="gelu",
        # So shallow a tower has nothing useful one layer below its last.
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
    )
