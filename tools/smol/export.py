"""Write the trained model as a folder that `groundprune.load` takes, and its test sets as files for `--data`."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from groundprune.pocket.scenes import TEST_SEEDS
from tools.pocket_training.export import PilImageProcessor, replaced

from .names import plural
from .pictures import Pictures
from .questions import SHARES, Question, draw_question
from .scenes import IMAGE_SIZE, PATCH_SIZE, SPLITS, Scene, make_scene
from .words import DEFAULT_SYSTEM, IMAGE, REQUESTS, Words, box_text

TEST_SIZES = {"held-out": 600, "novel-picture": 300, "novel-name": 150}  # of each kind
# Types that do not name what is there once, or are only ever answered by yes where it is there.
UNNAMED = ("extreme", "existence")
# The language model's own, for content that has images in it as well.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}" + IMAGE + "\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)  # fmt: skip
GROUNDING = {
    "rec_prompt": REQUESTS["rec"].format("{expression}"), "vqa_prompt": REQUESTS["vqa"].format("{question}"),
    "codec": "llava", "frame": "padded",
}  # fmt: skip


def make_processor(words: Words) -> LlavaProcessor:
    """The stock processor around the grown tokenizer."""
    words.tokenizer.image_token = IMAGE
    words.tokenizer.padding_side = "left"
    return LlavaProcessor(
        image_processor=PilImageProcessor(
            size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        ),
        tokenizer=words.tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which the strategy then drops
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def save_model(model: LlavaForConditionalGeneration, words: Words, folder: Path) -> None:
    """The model in bfloat16, its processor and how it is asked, in place of what `folder` held."""
    with replaced(folder) as draft:
        nn.Module.to(model, torch.bfloat16)
        model.save_pretrained(draft)
        make_processor(words).save_pretrained(draft)
        (draft / "grounding.json").write_text(json.dumps(GROUNDING, indent=2) + "\n")


def save_tests(pictures: Pictures, folder: Path, sizes: dict[str, int] | None = None) -> None:
    """FOLDER/SPLIT.jsonl and their images: so many expressions and so many questions, a scene for each."""
    with replaced(folder) as draft:
        for split, size in (sizes or TEST_SIZES).items():
            rows = []
            for index, (scene, question) in enumerate(draw_tests(pictures, split, size)):
                name = f"{split}/{index:05d}.png"
                (draft / split).mkdir(exist_ok=True)
                Image.fromarray(scene.image).save(draft / name)
                others = [each.box for i, each in enumerate(scene.objects) if i not in question.about]
                about = {"id": f"{split}-{index:05d}", "image": name, "type": question.type, "others": others}
                rows.append({**about, **_told(question)})
            (draft / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _told(question: Question) -> dict:
    if question.box is not None:
        return {"expression": question.text, "bbox": list(question.box)}
    text = question.text if question.given is None else question.text.format(box_text(question.given))
    return {"question": text, "answer": question.answer}


def _names(question: Question, name: str) -> bool:
    said = f"{question.text} {question.answer}"
    return name in said or plural(name) in said


def draw_tests(pictures: Pictures, split: str, size: int) -> Iterator[tuple[Scene, Question]]:
    """Expressions, then questions: of types by their shares, each about a scene of its own."""
    for kind, shares in SHARES.items():
        unasked = UNNAMED if split == "novel-name" else ()
        asked = {type: share for type, share in shares.items() if type not in unasked}
        for index in range(size):
            rng = np.random.default_rng([SPLITS.index(split), ("rec", "vqa").index(kind), index])
            wanted = str(rng.choice(list(asked), p=np.array(list(asked.values())) / sum(asked.values())))
            while True:  # until a scene yields a question of the type that is due
                scene = make_scene(pictures, TEST_SEEDS[int(rng.integers(len(TEST_SEEDS)))], split)
                focus = 0 if split == "novel-name" else None
                question = draw_question(rng, scene.objects, kind, wanted, focus) if scene.objects else None
                if question is not None and (focus is None or _names(question, scene.objects[focus].name)):
                    yield scene, question
                    break
