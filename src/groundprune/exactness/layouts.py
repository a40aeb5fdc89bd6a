"""The files from which the real checkpoints of each family are preprocessed, at the sizes of a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from groundprune.families import families
from groundprune.families.tiny_parts import IMAGE, PATCH, VOCABULARY

SIDE = 6  # patches of a tower's square image
_TEMPLATE = (
    "{{% for message in messages %}}{before}{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}"
    "{{% endfor %}}{{% if add_generation_prompt %}}{after}{{% endif %}}"
)
_PLAIN = ["<pad>", "<s>", "</s>", "<unk>", "USER:", "ASSISTANT:", "the", "red", "circle"]


@dataclass(frozen=True)
class Layout:
    """One family's folder. processor, preprocessor: the JSON files, from a config; None where there is no such file.

    marks: special tokens by the config's attribute that holds their id, the image placeholder first. named: special
    tokens by their name in tokenizer_config.json. others: further special tokens. options: of a config at tiny size.
    turn: what the chat template writes around the image and the text; None where there is no template.
    """

    marks: Mapping[str, str]
    preprocessor: Callable[[Any], dict[str, Any]]
    processor: Callable[[Any], dict[str, Any]] | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    turn: tuple[str, str, str] | None = None

    def config(self, name: str) -> Any:
        """That of the family's own tiny model where the family is served."""
        if name in families():
            return families()[name].tiny_config()
        vision = {"image_size": SIDE * PATCH, "patch_size": PATCH}
        config = AutoConfig.for_model(name, vision_config=vision, **self.options)
        for i, attribute in enumerate(self.marks):
            setattr(config, attribute, IMAGE - i)
        return config

    def tokenizer(self, config: Any) -> PreTrainedTokenizerFast:
        """As many words as the tiny models know, special tokens at the ids that the config gives them."""
        special = {getattr(config, attribute): token for attribute, token in self.marks.items()}
        free = (i for i in range(VOCABULARY - 1, 0, -1) if i not in special)
        known = set(special.values())
        rest = [token for token in (*self.named.values(), *self.others) if token not in known]
        special |= {next(free): token for token in rest}
        words = dict(enumerate(_PLAIN)) | {i: f"w{i}" for i in range(len(_PLAIN), VOCABULARY)} | special
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in words.items()}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
            extra_special_tokens=dict(self.named), padding_side="left",
        )  # fmt: skip
        fast.add_tokens(list(special.values()), special_tokens=True)
        return fast

    def save(self, folder: Path, config: Any) -> None:
        """Everything but config and weights."""
        self.tokenizer(config).save_pretrained(folder)
        _write(folder / "preprocessor_config.json", self.preprocessor(config))
        if self.processor is not None:
            _write(folder / "processor_config.json", self.processor(config))
        if self.turn is not None:
            before, between, after = self.turn
            # Gemma's prompts hold a mark of their own for an image, all others the placeholder.
            image = self.named.get("boi_token", next(iter(self.marks.values())))
            template = _TEMPLATE.format(before=before, image=image + between, after=after)
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def _edge(config: Any) -> int:
    edge = config.vision_config.image_size
    return edge if isinstance(edge, int) else edge[0]


def _patch(config: Any) -> int:
    patch = config.vision_config.patch_size
    return patch if isinstance(patch, int) else patch[0]


def _patches(config: Any) -> int:
    return (_edge(config) // _patch(config)) ** 2


def _square(config: Any) -> dict[str, int]:
    return {"height": _edge(config), "width": _edge(config)}


_NORMAL = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_PINPOINTS = [[SIDE * PATCH * rows, SIDE * PATCH * cols] for rows, cols in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))]
_USER = ("USER: ", "\n", " ASSISTANT:")
_ANSWER = "<|im_end|>\n<|im_start|>assistant\n"


def _llava(config: Any) -> dict[str, Any]:
    return {
        "image_token": "<image>", "num_additional_image_tokens": 1, "patch_size": _patch(config),
        "processor_class": "LlavaProcessor", "vision_feature_select_strategy": "default",
    }  # fmt: skip


def _qwen(processor_class: str, kind: str = "Qwen2VLImageProcessor") -> Callable[[Any], dict[str, Any]]:
    def preprocessor(config: Any) -> dict[str, Any]:
        vision = config.vision_config
        area = (_patch(config) * vision.spatial_merge_size) ** 2
        if kind.endswith("Fast"):
            limits: dict[str, Any] = {"size": {"shortest_edge": 4 * area, "longest_edge": 64 * area}}
        else:
            limits = {"min_pixels": 4 * area, "max_pixels": 64 * area}
        return {
            **limits, "patch_size": _patch(config), "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": vision.spatial_merge_size, **_NORMAL, "image_processor_type": kind,
            "processor_class": processor_class,
        }  # fmt: skip

    return preprocessor


_QWEN_MARKS = {
    "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
}  # fmt: skip
_QWEN_TURN = ("<|im_start|>user\n<|vision_start|>", "<|vision_end|>", _ANSWER)
_QWEN_OTHERS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
)


def _qwen_layout(processor_class: str, kind: str = "Qwen2VLImageProcessor") -> Layout:
    return Layout(_QWEN_MARKS, _qwen(processor_class, kind), others=_QWEN_OTHERS, turn=_QWEN_TURN)


def _idefics(kind: str, processor_class: str) -> dict[str, Any]:
    def preprocessor(config: Any) -> dict[str, Any]:
        return {
            "do_convert_rgb": True, "do_image_splitting": True, **_NORMAL, "image_processor_type": kind,
            "max_image_size": {"longest_edge": _edge(config)}, "size": {"longest_edge": 2 * _edge(config)},
            "processor_class": processor_class,
        }  # fmt: skip

    def processor(config: Any) -> dict[str, Any]:
        return {"image_seq_len": _patches(config) // config.scale_factor**2, "processor_class": processor_class}

    return {"preprocessor": preprocessor, "processor": processor}


_IDEFICS_OTHERS = (
    "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>",
    *(f"<row_{row}_col_{col}>" for row in (1, 2) for col in (1, 2)),
)  # fmt: skip
_IDEFICS_TURN = ("<|im_start|>User:", "", "<end_of_utterance>\nAssistant:")

LAYOUTS = {
    "llava": Layout(
        {"image_token_id": "<image>"},
        lambda c: {
            "crop_size": _square(c), "size": {"shortest_edge": _edge(c)}, **_NORMAL,
            "image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor",
        },
        _llava, named={"image_token": "<image>"}, turn=_USER,
    ),
    "llava_next": Layout(
        {"image_token_id": "<image>"},
        lambda c: {
            "crop_size": _square(c), "size": {"shortest_edge": _edge(c)}, **_NORMAL, "do_pad": True,
            "image_grid_pinpoints": c.image_grid_pinpoints, "image_processor_type": "LlavaNextImageProcessor",
            "processor_class": "LlavaNextProcessor",
        },
        lambda c: _llava(c) | {"processor_class": "LlavaNextProcessor"},
        named={"image_token": "<image>"}, options={"image_grid_pinpoints": _PINPOINTS},
        turn=("[INST] ", "\n", " [/INST]"),
    ),
    "llava_onevision": Layout(
        {"image_token_id": "<image>", "video_token_id": "<video>"},
        lambda c: {
            "size": _square(c), **_NORMAL, "do_pad": True, "image_grid_pinpoints": c.image_grid_pinpoints,
            "image_processor_type": "LlavaOnevisionImageProcessor", "processor_class": "LlavaOnevisionProcessor",
        },
        lambda c: {
            "image_token": "<image>", "video_token": "<video>", "num_image_tokens": _patches(c),
            "processor_class": "LlavaOnevisionProcessor", "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": c.vision_aspect_ratio,
        },
        options={"image_grid_pinpoints": _PINPOINTS}, others=("<|im_start|>", "<|im_end|>"),
        turn=("<|im_start|>user ", "\n", "<|im_end|><|im_start|>assistant\n"),
    ),
    "qwen2_vl": _qwen_layout("Qwen2VLProcessor"),
    "qwen2_5_vl": _qwen_layout("Qwen2_5_VLProcessor"),
    "qwen3_vl": _qwen_layout("Qwen3VLProcessor", "Qwen2VLImageProcessorFast"),
    "qwen3_5": _qwen_layout("Qwen3VLProcessor", "Qwen2VLImageProcessorFast"),
    "internvl": Layout(
        {"image_token_id": "<IMG_CONTEXT>"},
        lambda c: {
            "crop_to_patches": False, "min_patches": 1, "max_patches": 6, "size": _square(c), **_NORMAL,
            "image_processor_type": "GotOcr2ImageProcessorFast", "processor_class": "InternVLProcessor",
        },
        lambda c: {"image_seq_length": c.image_seq_length, "processor_class": "InternVLProcessor"},
        named={
            "context_image_token": "<IMG_CONTEXT>", "start_image_token": "<img>", "end_image_token": "</img>",
            "video_token": "<video>",
        },
        others=("<|im_start|>", "<|im_end|>", "<ref>", "</ref>", "<box>", "</box>"),
        options={"image_seq_length": 9}, turn=("<|im_start|>user\n", "\n", _ANSWER),
    ),
    "idefics3": Layout(
        {"image_token_id": "<image>"}, **_idefics("Idefics3ImageProcessor", "Idefics3Processor"),
        others=_IDEFICS_OTHERS, turn=_IDEFICS_TURN,
    ),
    "smolvlm": Layout(
        {"image_token_id": "<image>"}, **_idefics("SmolVLMImageProcessor", "SmolVLMProcessor"),
        others=_IDEFICS_OTHERS, turn=_IDEFICS_TURN,
        named={
            "fake_image_token": "<fake_token_around_image>", "image_token": "<image>",
            "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>",
        },
    ),
    "gemma3": Layout(
        {
            "image_token_id": "<image_soft_token>", "boi_token_index": "<start_of_image>",
            "eoi_token_index": "<end_of_image>",
        },
        lambda c: {
            "do_pan_and_scan": None, "image_seq_length": c.mm_tokens_per_image, "size": _square(c), **_NORMAL,
            "image_processor_type": "Gemma3ImageProcessor", "processor_class": "Gemma3Processor",
        },
        lambda c: {"image_seq_length": c.mm_tokens_per_image, "processor_class": "Gemma3Processor"},
        named={
            "image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
        },
        others=("<start_of_turn>", "<end_of_turn>"), options={"mm_tokens_per_image": 9},
        turn=("<start_of_turn>user\n", "", "<end_of_turn>\n<start_of_turn>model\n"),
    ),
    "paligemma": Layout(
        {"image_token_id": "<image>"},
        lambda c: {
            "image_seq_length": _patches(c), "size": _square(c), **_NORMAL, "do_convert_rgb": None,
            "image_processor_type": "SiglipImageProcessor", "processor_class": "PaliGemmaProcessor",
        },
    ),
    "mistral3": Layout(
        {"image_token_id": "[IMG]"},
        lambda c: {
            "patch_size": {"height": _patch(c), "width": _patch(c)}, "size": {"longest_edge": _edge(c)}, **_NORMAL,
            "image_processor_type": "PixtralImageProcessorFast", "processor_class": "PixtralProcessor",
        },
        lambda c: {
            "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]", "image_token": "[IMG]",
            "patch_size": _patch(c), "processor_class": "PixtralProcessor",
            "spatial_merge_size": c.spatial_merge_size,
        },
        others=("[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]"), turn=("[INST]", "", "[/INST]"),
    ),
}  # fmt: skip
