"""Checkpoint folders in the layout of real ones, made in seconds and without a download."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from groundprune.exactness.layouts import LAYOUTS
from groundprune.exactness.tiny import tiny_model
from groundprune.families import families
from groundprune.families.tiny_parts import IMAGE

SERVED = sorted(LAYOUTS.keys() & families().keys())  # what `save_tiny` can make
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
_WORDS = ["USER:", "ASSISTANT:", "the", "red", "circle"]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A hundred words, the image token at the id that `tiny_model` gives it."""
    words = [*_SPECIAL, *_WORDS]
    words += [f"w{i}" for i in range(len(words), IMAGE)]
    words.append("<image>")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"}, padding_side="left",
    )  # fmt: skip


def save_tiny_llava(folder: Path, side: int = 6) -> Path:
    """A random LLaVA of side x side visual tokens: config, weights, processor; no CLIP text tower."""
    model = tiny_model("llava", side=side)
    model.save_pretrained(folder)
    edge = model.config.vision_config.image_size
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge})
    LlavaProcessor(
        image_processor=image_processor, tokenizer=word_tokenizer(), patch_size=4,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_tiny(family: str, folder: Path) -> Path:
    """A random model of a family, with the files from which its real checkpoints are preprocessed."""
    model = tiny_model(family)
    model.generation_config.max_new_tokens = 4
    model.save_pretrained(folder)
    LAYOUTS[family].save(folder, model.config)
    return folder


def save_text_model(folder: Path) -> Path:
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=100
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder
