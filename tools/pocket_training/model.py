"""The pocket model's shapes: a stock `LlavaForConditionalGeneration` of about three million parameters."""

from dataclasses import dataclass
from typing import Any

from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from .vocabulary import BOS, EOS, IMAGE, LM_IDS, LM_WORDS, PAD


@dataclass(frozen=True)
class Decoder:
    """Sizes of the language model, and the base of its rotary positions.

    Rotary pair i of the n in a head turns once in 2 pi theta^(i/n) positions. With 177, pair 3 of 24 turns once in
    12 positions, a row of the pocket's grid: a patch and the one below it then have the same angle in that pair. The
    slowest pair turns once in 900 positions, a few times the longest prompt.
    """

    width: int = 192
    head: int = 48
    theta: float = 177.0
    heads: int = 4
    layers: int = 4
    feed: int = 384


POCKET = Decoder()


def llava_config(vision: Any, decoder: Decoder = POCKET) -> LlavaConfig:
    """The configuration of the whole around that of the tower, a `CLIPVisionConfig`."""
    side = vision.image_size // vision.patch_size
    text = LlamaConfig(
        vocab_size=len(LM_WORDS),
        hidden_size=decoder.width,
        intermediate_size=decoder.feed,
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
        num_key_value_heads=decoder.heads,
        head_dim=decoder.head,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": decoder.theta},
        bos_token_id=LM_IDS[BOS],
        eos_token_id=LM_IDS[EOS],
        pad_token_id=LM_IDS[PAD],
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=LM_IDS[IMAGE],
        projector_hidden_act="gelu",
        # So shallow a tower has nothing useful one layer below its last.
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=side * side,
        tie_word_embeddings=True,
    )


def make_llava(clip, decoder: Decoder = POCKET) -> LlavaForConditionalGeneration:
    """A model with the vision half of `clip` as its tower and everything else at random."""
    model = LlavaForConditionalGeneration(llava_config(clip.config.vision_config, decoder))
    tower = model.model.vision_tower
    tower.load_state_dict(clip.vision_model.state_dict())
    tower.requires_grad_(False)
    tower.set_attn_implementation(clip.vision_model.config._attn_implementation)
    # Backward through a fused kernel is slower than this on a CPU, in bfloat16 twice as slow.
    model.model.language_model.set_attn_implementation("eager")
    model.generation_config.update(
        bos_token_id=LM_IDS[BOS], eos_token_id=LM_IDS[EOS], pad_token_id=LM_IDS[PAD], max_new_tokens=16
    )
    return model
