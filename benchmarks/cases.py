"""Models of real shapes with random weights, and the ways to run them: stock, pruned, and born with fewer tokens."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import groundprune as gp
from groundprune.errors import unknown
from groundprune.exactness.tiny import tiny_inputs, tiny_of
from groundprune.families import family_of
from groundprune.families.tiny_parts import BOS, IMAGE, PAD, VIDEO, WORDS
from groundprune.pruners import Pruner

BEFORE, AFTER = 35, 30  # words around the images, as in LLaVA-1.5's template
GRIDS = {36: (6, 6), 144: (12, 12), 576: (24, 24), 2880: (48, 60), 10_000: (100, 100)}  # of one Qwen2.5-VL image


@dataclass(frozen=True)
class Shape:
    """A model. side: tokens along an image's edge where all images have as many, else None.

    config: given the tower's and the LLM's sizes, the config of the real class.
    """

    config: Callable[[], Any]
    side: int | None = None


def _llava(tower: dict[str, Any], llm: tuple[int, int, int, int], vocabulary: int, side: int = 24) -> Shape:
    def config() -> Any:
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

        width, inner, layers, heads = llm
        vision = CLIPVisionConfig(**tower, image_size=14 * side, patch_size=14, projection_dim=tower["hidden_size"])
        text = LlamaConfig(
            hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=heads, vocab_size=vocabulary, max_position_embeddings=32_768, pad_token_id=PAD,
            bos_token_id=BOS, eos_token_id=None,
        )  # fmt: skip
        return LlavaConfig(
            vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=side**2,
            vision_feature_layer=-2,
        )  # fmt: skip

    return Shape(config, side)


def _qwen(vision: dict[str, Any], llm: tuple[int, int, int, int, int], vocabulary: int) -> Shape:
    def config() -> Any:
        from transformers import Qwen2_5_VLConfig

        from groundprune.families.qwen import VISION_END, VISION_START

        width, inner, layers, heads, groups = llm
        section = [width // heads // 8, width // heads * 3 // 16, width // heads * 3 // 16]
        text = {
            "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": vocabulary,
            "max_position_embeddings": 32_768, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
        }  # fmt: skip
        return Qwen2_5_VLConfig(
            text_config=text, vision_config={**vision, "out_hidden_size": width}, image_token_id=IMAGE,
            video_token_id=VIDEO, vision_start_token_id=VISION_START, vision_end_token_id=VISION_END,
        )  # fmt: skip

    return Shape(config)


_CLIP_L: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
_NARROW_CLIP: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
}
_TINY_CLIP: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_QWEN_TOWER = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
    "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
_TINY_QWEN_TOWER = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": 4, "window_size": 16,
    "fullatt_block_indexes": [1],
}  # fmt: skip
SHAPES = {
    "llava-1024": _llava(_NARROW_CLIP, (1024, 2752, 8, 8), 1000),  # what a CPU can do in a second or two
    "llava-1.5-7b": _llava(_CLIP_L, (4096, 11_008, 32, 32), 32_064),
    "qwen2.5-vl-7b": _qwen(_QWEN_TOWER, (3584, 18_944, 28, 28, 4), 152_064),
    "tiny-llava": _llava(_TINY_CLIP, (64, 128, 4, 4), 100, side=6),
    "tiny-qwen2.5-vl": _qwen(_TINY_QWEN_TOWER, (64, 128, 4, 4, 2), 100),
}


class Case:
    """One model and prompts with as many visual tokens each; every method is one whole prefill.

    Args:
        name: one of SHAPES.
        tokens: visual tokens of a prompt. Of models whose images have one size, as many as whole images give.
        device: of the model.
        dtype: of the model.
        batch: prompts.

    Raises:
        GroundPruneError: an unknown model, or a count of tokens that it has no image for.
    """

    def __init__(self, name: str, tokens: int, device: str = "cpu", dtype: str = "float32", batch: int = 1):
        if name not in SHAPES:
            raise unknown("model", name, SHAPES)
        self.device = torch.device(device)
        with _defaults(self.device, getattr(torch, dtype)):
            self.model = tiny_of(SHAPES[name].config())
        self._family = family_of(self.model.config)
        side = SHAPES[name].side
        if side is None:
            inputs = _qwen_inputs(self.model, self._family, tokens, batch)
        else:
            images = max(1, round(tokens / side**2))
            inputs = tiny_inputs(self.model, [(images, max(1, BEFORE // images), AFTER)] * batch)
        self.inputs = {
            key: value.to(self.device, self.model.dtype if value.is_floating_point() else value.dtype)
            for key, value in inputs.items()
        }
        self.words = {key: self.inputs[key] for key in self.inputs if key in _OF_WORDS}
        token = self._family.token_ids(self.model.config)["image"]
        self.columns = (self.inputs["input_ids"][0] == token).nonzero().squeeze(1)
        self.tokens, self.batch = len(self.columns), batch

    def stock(self) -> Any:
        """The unpruned model."""
        return self.run(self.inputs)

    def tower(self) -> Any:
        """The tower and the projector alone, as stock code runs them."""
        base = self.model.base_model
        names = inspect.signature(base.get_image_features).parameters
        given = {name: self.inputs[name] for name in names if name in self.inputs and name not in _OF_WORDS}
        return base.get_image_features(**given, return_dict=True)

    def native(self, count: int) -> Any:
        """The tower on the whole image, then the LLM as if the image had `count` tokens to begin with."""
        return self.run(self.fewer(count, self.tower()))

    def fewer(self, count: int, output: Any) -> dict[str, Any]:
        """The inputs of `native`. output: of `tower`."""
        features = output.pooler_output
        flat = features.flatten(0, -2) if torch.is_tensor(features) else torch.cat(list(features))
        some = flat.reshape(self.batch, self.tokens, -1)[:, :count]
        stays = torch.ones_like(self.inputs["input_ids"][0], dtype=torch.bool)
        stays[self.columns[count:]] = False
        words = {key: value[:, stays] for key, value in self.words.items()}
        position = torch.arange(words["input_ids"].shape[1], device=self.device).expand(self.batch, -1)
        if self._family.position_axes > 1:
            position = position.expand(self._family.position_axes, -1, -1)
        stacked = some if torch.is_tensor(features) else list(some)
        return {
            **words, "position_ids": position, "mm_encoder_outputs": {"image": type(output)(pooler_output=stacked)}
        }  # fmt: skip

    def pruned(self, pruner: Pruner, positions: str = "preserved") -> Any:
        """Tower, choice and LLM: before the LLM by `gp.prune_inputs`, inside of it by `gp.prune`."""
        if not pruner.inside:
            return self.run(gp.prune_inputs(self.model, self.inputs, pruner, positions))
        with gp.prune(self.model, pruner, positions):
            return self.run(self.inputs)

    def run(self, inputs: Mapping[str, Any]) -> Any:
        """One prefill of the model itself."""
        return self.model(**inputs, use_cache=True, logits_to_keep=1)


_OF_WORDS = ("input_ids", "attention_mask", "mm_token_type_ids")


@contextlib.contextmanager
def _defaults(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """New tensors are made there: seven billion weights have no room on the way."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def _qwen_inputs(model: Any, family: Any, tokens: int, batch: int) -> dict[str, Tensor]:
    if tokens not in GRIDS:
        raise unknown("count of visual tokens", str(tokens), map(str, GRIDS))
    vision, generator = model.config.vision_config, torch.Generator().manual_seed(1)
    rows, columns = (side * vision.spatial_merge_size for side in GRIDS[tokens])
    words = torch.randint(WORDS.start, WORDS.stop, (batch, BEFORE + AFTER), generator=generator)
    image = torch.tensor(family.tiny_tokens("image", 1, rows, columns)).expand(batch, -1)
    ids = torch.cat([words[:, :BEFORE], image, words[:, BEFORE:]], 1)
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == IMAGE).long(),
        "pixel_values": torch.randn(batch * rows * columns, values, generator=generator),
        "image_grid_thw": torch.tensor([[1, rows, columns]] * batch),
    }  # fmt: skip
