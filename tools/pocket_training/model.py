"""The pocket model's shapes: a stock `LlavaForConditionalGeneration` of about three million parameters."""

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from groundprune.pocket.scenes import GRID

from .vocabulary import BOS, EOS, IMAGE, LM_IDS, LM_WORDS, PAD

HEADS = 4
WIDTH = 192
# Rotary pair i of the 24 in a head turns once in 2 pi theta^(i/24) positions. With 177, pair 3 turns once in
# 12 positions, a row of the grid: a patch and the one below it then have the same angle in that pair. The
# slowest pair turns once in 900 positions, a few times the longest prompt.
ROPE_THETA = 177.0


def llava_config(vision: CLIPVisionConfig) -> LlavaConfig:
    """The configuration of the whole around that of the tower."""
    text = LlamaConfig(
        vocab_size=len(LM_WORDS),
        hidden_size=WIDTH,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
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
        image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
    )


def make_llava(clip) -> LlavaForConditionalGeneration:
    """A model with the vision half of `clip` as its tower and everything else at random."""
    model = LlavaForConditionalGeneration(llava_config(clip.config.vision_config))
    tower = model.model.vision_tower
    tower.load_state_dict(clip.vision_model.state_dict())
    tower.requires_grad_(False)
    model.generation_config.update(
        bos_token_id=LM_IDS[BOS], eos_token_id=LM_IDS[EOS], pad_token_id=LM_IDS[PAD], max_new_tokens=16
    )
    return model
