"""How long a pruned prompt may be: its positions are those of the unpruned one; needs no vLLM.

vLLM counts slots, and computes the rotary table for as many positions as the model was made for. A prompt that lost
tokens may have slots left where its positions are at the end of the table.
"""

from __future__ import annotations

from typing import Any

from groundprune.errors import GroundPruneError
from groundprune.integrations.vllm.image_pruning import ImagePruning

MROPE_FACTORS = {"qwen2_5_vl": 4, "qwen2_vl": 4}  # by which vLLM makes a model's rotary table longer than its limit
THINNEST = 200  # Qwen's processors refuse images of a more extreme aspect ratio than this
LARGEST = 16_384  # tokens that they make of one image, at most, by their defaults
# Tiles by their processors' defaults, and the whole image.
TILES = {"internvl": 13, "idefics3": 17, "smolvlm": 17}


def check_positions(pruning: ImagePruning, length: int, images: int) -> None:
    """Raises GroundPruneError where a prompt of `length` slots could reach positions past the rotary table.

    images: how many a prompt may hold.
    """
    table = rotary_length(pruning)
    if length > largest_length(pruning, images, table):
        held = min(images, length // fewest_tokens(pruning))
        reached = length + held * most_dropped(pruning)
        raise GroundPruneError(
            f"with max_model_len={length} and {held} images in a prompt, original positions could reach "
            f"{reached - 1}, but the rotary table ends at {table - 1}: lower limit_mm_per_prompt and max_model_len, "
            f"to 1 image and {largest_length(pruning, 1, table)}, say"
        )


def largest_length(pruning: ImagePruning, images: int, table: int) -> int:
    """The largest max_model_len at which no position of a prompt with at most so many images passes the table."""
    if pruning.renumbered or pruning.stage.budget.share == 1:
        return table
    dropped, fewest = most_dropped(pruning), fewest_tokens(pruning)
    # However many images are allowed, no more than fit are there.
    return max(table - images * dropped, table * fewest // (fewest + dropped))


def rotary_length(pruning: ImagePruning) -> int:
    """Positions in the rotary table that vLLM makes for the model."""
    return own_length(pruning) * MROPE_FACTORS.get(pruning.family.name, 1)


def own_length(pruning: ImagePruning) -> int:
    """The longest prompt that the model was made for, in positions."""
    text = pruning.config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    length = text.max_position_embeddings
    if rope.get("rope_type") == "yarn":
        length = int(rope.get("original_max_position_embeddings", length) * rope["factor"])
    elif rope.get("rope_type") in ("linear", "dynamic"):
        length = int(length * rope["factor"])
    return length


def most_dropped(pruning: ImagePruning) -> int:
    """By how much the positions behind one image can exceed its slots."""
    count = pruning.stage.budget.count
    if pruning.family.position_axes == 3:
        # An image moves what follows by the longer side of its grid: only thin ones by more than their tokens. The
        # ratio is that of the pixels: rounded to a grid, an image can be nearly a row thinner.
        longest = {rows: min(THINNEST * (rows + 1), LARGEST // rows) for rows in range(1, 128)}
        return max(0, *(side - count(side * rows) for rows, side in longest.items()))
    tokens = most_tokens(pruning.config)
    return tokens - count(tokens)


def fewest_tokens(pruning: ImagePruning) -> int:
    """That an image can have left."""
    packed = pruning.family.tower_kind(pruning.config).packed
    return 1 if packed else pruning.stage.budget.count(_patches(pruning.config))


def encoder_share(pruning: ImagePruning) -> float:
    """Of the largest image's tokens, those that stay."""
    tokens = LARGEST if pruning.family.position_axes == 3 else most_tokens(pruning.config)
    return pruning.stage.budget.count(tokens) / tokens


def most_slots(pruning: ImagePruning) -> int:
    """That an image of a grid of tiles can take, newlines included; of any other 1, for vLLM measures those itself.

    It measures the image of the most tokens. Of few that stay, a taller one with more newlines takes more.
    """
    config: Any = pruning.config
    pinpoints = getattr(config, "image_grid_pinpoints", None)
    if not pinpoints:
        return 1
    vision = config.vision_config
    rows = max(height for height, _ in pinpoints) // vision.image_size * (vision.image_size // vision.patch_size)
    return pruning.stage.budget.count(most_tokens(config)) + rows


def most_tokens(config: Any) -> int:
    """That an image can have, of a tower that sees square crops, or as many patches as a square of its size has."""
    patches = _patches(config)
    tiles = patches * (_crops(config) - 1)
    limit = getattr(config, "vision_aspect_ratio", "").removeprefix("anyres_max_")
    if limit:  # of a grid of tiles, which is interpolated only where it is more than 1.1 times as long and as wide
        tiles = min(tiles, patches * int(limit) * 121 // 100)
    return patches + tiles


def _patches(config: Any) -> int:
    """Tokens of a square image that the tower sees."""
    vision = config.vision_config
    size, patch = (edge if isinstance(edge, int) else edge[0] for edge in (vision.image_size, vision.patch_size))
    joined = getattr(config, "scale_factor", None) or getattr(config, "spatial_merge_size", 1)
    return (size // patch // round(joined / getattr(config, "downsample_ratio", 1))) ** 2


def _crops(config: Any) -> int:
    """That the tower sees of one image, at most."""
    if config.model_type in TILES:
        return TILES[config.model_type]
    pinpoints = getattr(config, "image_grid_pinpoints", None)
    if not pinpoints:
        return 1
    return 1 + max(height * width for height, width in pinpoints) // config.vision_config.image_size**2
