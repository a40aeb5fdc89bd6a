"""What a checkpoint reads when it is asked for a box or for words: one image and one user turn, or a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from groundprune.boxes import Bbox2dPixelsCodec, BoxCodec, make_codec
from groundprune.boxes.images import square
from groundprune.boxes.points import PointOrCentre, check_point_codec, in_pixels, make_point_codec
from groundprune.boxes.polygons import PolygonCodec
from groundprune.checkpoints.processor import resized_size
from groundprune.errors import GroundPruneError, first_line, unknown
from groundprune.families.grounding import Grounding

_LARGEST = 4096  # pixels of the edge of a square that processors which count pixels, not edges, would get
_PLACEHOLDERS = {"rec": "{expression}", "vqa": "{question}", "seg": "{expression}", "point": "{expression}"}


def prompt_for(processor: Any, grounding: Grounding, kind: str, text: str) -> str:
    """The whole prompt. kind "rec", "seg" or "point": text is a referring expression; "vqa": a question.

    Raises GroundPruneError for an unknown kind, an empty text, one that holds the model's image token, and for a
    checkpoint whose wording has no place for the text.
    """
    if kind not in _PLACEHOLDERS:
        raise unknown("kind", kind, _PLACEHOLDERS)
    if not text.strip():
        raise GroundPruneError("the text is empty: say what to look for, or ask something")
    if processor.image_token in text:
        raise GroundPruneError(f"the text holds {processor.image_token!r}, which stands for an image in a prompt")
    wording: str = getattr(grounding, f"{kind}_prompt") or grounding.rec_prompt  # no words for a point: for a box
    if _PLACEHOLDERS[kind] not in wording:
        raise GroundPruneError(f"the checkpoint's {kind}_prompt {wording!r} has no {_PLACEHOLDERS[kind]}")
    # Not str.format: braces that are not ours are the prompt's own, as in a prompt that asks for JSON.
    return chat_prompt(processor, wording.replace(_PLACEHOLDERS[kind], text.strip()), grounding.turn)


def chat_prompt(processor: Any, text: str, turn: str = Grounding.turn) -> str:
    """One image and one user turn, see `conversation_prompt`."""
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return conversation_prompt(processor, [{"role": "user", "content": content}], turn)


def conversation_prompt(processor: Any, messages: Sequence[Mapping[str, Any]], turn: str = Grounding.turn) -> str:
    """The prompt of a conversation whose next turn is the model's, in the checkpoint's own chat template.

    messages: each a role and the parts of its content, {"type": "image"}, {"type": "video"} or {"type": "text",
    "text": ...}. turn: as in `Grounding`, of a checkpoint without a template, which takes one user turn; what
    comes before its first words stands where the turn has its image.

    Raises GroundPruneError where the template fails, or several turns are given to a checkpoint without one.
    """
    if getattr(processor, "chat_template", None) is None:
        if [message["role"] for message in messages] != ["user"]:
            raise GroundPruneError("the checkpoint has no chat template: it takes one user turn, and no other")
        return _in_turn(processor, messages[0]["content"], turn)
    try:
        # What is asked for is a box or a few words. Qwen3.5's template begins the answer with thoughts, unless told.
        thinks = "enable_thinking" in str(processor.chat_template)
        options = {"enable_thinking": False} if thinks else {}
        return processor.apply_chat_template(list(messages), add_generation_prompt=True, **options)
    except Exception as error:  # the template is the checkpoint's own program
        raise GroundPruneError(f"the checkpoint's chat template fails: {first_line(error)}") from error


def _in_turn(processor: Any, content: Sequence[Mapping[str, Any]], turn: str) -> str:
    marks = {kind: getattr(processor, f"{kind}_token", "") for kind in ("image", "video")}
    pieces = [part["text"] if part["type"] == "text" else marks[part["type"]] for part in content]
    first = next((i for i, part in enumerate(content) if part["type"] == "text"), len(content))
    visuals, text = "".join(pieces[:first]), "".join(pieces[first:])
    before, _, after = turn.partition("{text}")
    return before.replace("{image}", visuals) + text + after.replace("{image}", visuals)


def model_inputs(processor: Any, grounding: Grounding, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
    """What the model reads, one image a prompt, padded on the left: the processor's BatchFeature of tensors."""
    return conversation_inputs(processor, grounding, prompts, [[image] for image in images])


def conversation_inputs(
    processor: Any,
    grounding: Grounding,
    prompts: Sequence[str],
    images: Sequence[Sequence[Image.Image]] = (),
    **videos: Any,
) -> Any:
    """What the model reads, padded on the left: the processor's BatchFeature of tensors.

    images: none at all, or at least one of each prompt, in the order in which they stand in it. videos: further
    arguments of the processor.
    """
    if images:
        videos["images"] = [[framed(processor, grounding, image) for image in of_one] for of_one in images]
    inputs = processor(text=list(prompts), padding=True, padding_side="left", return_tensors="pt", **videos)
    inputs.pop("labels", None)  # PaliGemma's processor makes them, for training
    return inputs


def box_codec(processor: Any, grounding: Grounding, width: int, height: int) -> BoxCodec:
    """The language of the checkpoint's boxes on an image of width x height pixels.

    Raises GroundPruneError for an unknown codec, and for one in pixels where the processor resizes in its own way.
    """
    if grounding.codec != Bbox2dPixelsCodec.name:
        return make_codec(grounding.codec)
    width, height = resized_size(processor, width, height)
    return make_codec(grounding.codec, width=width, height=height)


def point_codec(processor: Any, grounding: Grounding, width: int, height: int) -> PointOrCentre:
    """The language of the checkpoint's points, and of its boxes, on an image of width x height pixels.

    Raises GroundPruneError as `box_codec` does.
    """
    boxes, name = box_codec(processor, grounding, width, height), grounding.point_codec
    if name is None:
        return PointOrCentre(None, boxes)
    check_point_codec(name)
    size = resized_size(processor, width, height) if in_pixels(name) else (width, height)
    return PointOrCentre(make_point_codec(name, *size), boxes)


def polygon_codec(codec: BoxCodec) -> PolygonCodec:
    """Outlines in the numbers of a box language: shares of the frame, steps of a grid, or pixels."""
    grid = getattr(codec, "grid", None)
    return PolygonCodec(decimals=getattr(codec, "decimals", 2)) if grid is None else PolygonCodec(grid, 0)


def framed(processor: Any, grounding: Grounding, image: Image.Image) -> Image.Image:
    """The image as the processor should get it, in the frame that the checkpoint's boxes are measured in.

    Padded here, for not every processor pads: LLaVA-NeXT's cuts tiles from whatever it gets.
    """
    if grounding.frame != "padded":
        return image
    own, colour = processor.image_processor, getattr(processor, "padding_colour", None)
    red, green, blue = colour or (int(255 * mean) for mean in own.image_mean)
    tiles = getattr(own, "image_grid_pinpoints", None) or []
    edges = [edge for size in (dict(own.size).values(), *tiles) for edge in size if edge is not None]
    return square(image, (red, green, blue), min(_LARGEST, max(edges)), own.resample)
