"""A trained variant as studies run it: a model and its processor."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from groundprune.checkpoints.processor import load_processor
from groundprune.families import family_of
from groundprune.pocket.scenes import IMAGE_SIZE
from tools.pocket_training.export import CHAT_TEMPLATE, GROUNDING, make_processor
from tools.pocket_training.runtime import load_state
from tools.pocket_training.tower import MEAN, STD, load_clip
from tools.pocket_training.vocabulary import make_lm_tokenizer

from .axes import FRAMES, Axes
from .catalogue import PATCH, VARIANTS
from .training import Job

# Outlines are asked for in the words that `outlines` is trained with, which are those for boxes.
_ASKED = {**GROUNDING, "seg_prompt": GROUNDING["rec_prompt"]}


def load_variant(job: Job) -> tuple[Any, Any]:
    """What a training of a model has made, ready to answer; its processor's files are written beside it."""
    variant = VARIANTS[job.variant]
    model = variant.lesson.model(load_clip(replace(job, tower=True).path))
    model.load_state_dict(load_state(job.path)["model"])
    folder = job.path.with_suffix("")
    folder.mkdir(exist_ok=True)
    (folder / "grounding.json").write_text(json.dumps(_ASKED))
    if isinstance(variant.lesson, Axes):
        _write_qwen_processor(folder)
    else:
        make_processor(PATCH).save_pretrained(folder)
    model.config._name_or_path = str(folder)  # where `grounding_of` looks
    processor = load_processor(folder, model.config)
    return model.eval(), family_of(model.config).prepare_processor(processor)


def _write_qwen_processor(folder: Path) -> None:
    make_lm_tokenizer().save_pretrained(folder)
    area = IMAGE_SIZE**2
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
        "patch_size": PATCH, "merge_size": 1, "temporal_patch_size": FRAMES, "min_pixels": area, "max_pixels": area,
        "image_mean": MEAN.flatten().tolist(), "image_std": STD.flatten().tolist(),
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
