"""Write the pocket model as a folder that stock transformers loads without the network."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPModel, LlavaForConditionalGeneration, LlavaProcessor

from groundprune.pocket.scenes import IMAGE_SIZE, PATCH_SIZE

from .vocabulary import make_clip_tokenizer, make_lm_tokenizer

try:  # the processor that needs no torchvision
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as PilImageProcessor
except ImportError:
    from transformers import CLIPImageProcessor as PilImageProcessor

# LLaVA's template. The tokenizer puts <s> first and sets everything in lower case.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}user: {% elif message['role'] == 'assistant' %}assistant: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }} {% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image> {% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}</s> {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
GROUNDING = {
    "rec_prompt": "locate {expression}", "vqa_prompt": "{question}", "codec": "llava", "frame": "padded",
}  # fmt: skip


def make_image_processor() -> PilImageProcessor:
    """CLIP's preprocessing at the size of the scenes; works without torchvision."""
    return PilImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )


def make_processor(patch: int = PATCH_SIZE) -> LlavaProcessor:
    """The stock processor around our tokenizer and template."""
    return LlavaProcessor(
        image_processor=make_image_processor(),
        tokenizer=make_lm_tokenizer(),
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which the strategy then drops
        chat_template=CHAT_TEMPLATE,
    )


def save_checkpoint(model: LlavaForConditionalGeneration, clip: CLIPModel, folder: Path) -> None:
    """The model, its processor and the CLIP of its tower, in bf16, in an empty folder."""
    for module in (model, clip):
        nn.Module.to(module, torch.bfloat16)
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)
    clip.save_pretrained(folder / "clip")
    make_clip_tokenizer().save_pretrained(folder / "clip")
    make_image_processor().save_pretrained(folder / "clip")
    (folder / "grounding.json").write_text(json.dumps(GROUNDING, indent=2) + "\n")


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which then takes the place of `folder`; where filling it fails, `folder` stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft)
        raise
    draft.chmod(0o755)
    for file in draft.rglob("*.*"):
        file.chmod(0o644)  # safetensors writes files that only their owner may read
    # Two renames rather than a copy: a reader sees the old folder or the new one, hardly ever neither.
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
        folder.rename(old / "old")
        draft.rename(folder)
        shutil.rmtree(old)
    else:
        draft.rename(folder)
