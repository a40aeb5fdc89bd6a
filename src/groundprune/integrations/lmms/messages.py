"""A request of lmms-eval as a conversation: its prompt's parts, and the images and videos in their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from groundprune.boxes.images import load_image
from groundprune.errors import GroundPruneError

MARK = "<image>"  # what lmms-eval's tasks write where an image belongs


@dataclass(frozen=True, eq=False)
class Conversation:
    """messages: as `conversation_prompt` takes them. images, videos: of all messages, in order; videos by path."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What the last user turn says, for pruners that read it."""
        last = [message for message in self.messages if message["role"] == "user"][-1:]
        return " ".join(part["text"] for message in last for part in message["content"] if part["type"] == "text")

    @property
    def kind(self) -> str:
        """Prompts of one kind run together: "text", "image" or "video"; with both it is "mixed"."""
        return {(0, 0): "text", (1, 0): "image", (0, 1): "video"}.get((bool(self.images), bool(self.videos)), "mixed")


def of_messages(messages: Iterable[Mapping[str, Any]]) -> Conversation:
    """Of what a task's `doc_to_messages` gives: roles, and contents of text and {"type": "image", "url": ...}.

    Raises GroundPruneError for other media, and for a piece of a video.
    """
    found = Conversation()
    for message in messages:
        content = message["content"]
        content = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts = [_part(found, part) for part in content]
        found.messages.append({"role": message["role"], "content": _in_place(parts)})
    if not any(message["role"] == "user" for message in found.messages):
        raise GroundPruneError("no user turn in the messages")
    return found


def of_context(context: str, visuals: Sequence[Any] | None) -> Conversation:
    """Of a text and what a task's `doc_to_visual` gives: images, or videos by path, before the text.

    Raises GroundPruneError for other media.
    """
    content = [{"type": "video" if isinstance(x, str) else "image", "url": x} for x in visuals or []]
    return of_messages([{"role": "user", "content": [*content, {"type": "text", "text": context}]}])


def _part(conversation: Conversation, part: Mapping[str, Any]) -> dict[str, Any]:
    kind, medium = part["type"], part.get("url")
    if kind == "text":
        return {"type": "text", "text": part["text"]}
    if kind == "image" and isinstance(medium, str | Path):
        conversation.images.append(load_image(medium))
    elif kind == "image" and isinstance(medium, Image.Image):
        conversation.images.append(medium.convert("RGB"))
    elif kind == "video" and isinstance(medium, str | Path):
        if part.get("start_time") is not None or part.get("end_time") is not None:
            raise GroundPruneError("a piece of a video is asked about, start_time to end_time; whole ones are read")
        conversation.videos.append(str(medium))
    else:
        raise GroundPruneError(f"images and videos by path are read, not a {type(medium).__name__} as {kind}")
    return {"type": kind}


def _in_place(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Images stand before the words, unless the words have a mark for each of them."""
    images = sum(part["type"] == "image" for part in parts)
    marks = sum(part["text"].count(MARK) for part in parts if part["type"] == "text")
    if not images or marks != images:
        return parts
    found = [part for part in parts if part["type"] == "video"]
    for part in (part for part in parts if part["type"] == "text"):
        first, *rest = part["text"].split(MARK)
        found.append({"type": "text", "text": first})
        for words in rest:
            found += [{"type": "image"}, {"type": "text", "text": words}]
    return [part for part in found if part["type"] != "text" or part["text"].strip()]
