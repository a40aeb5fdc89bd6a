"""Prompts as the chat template writes them, in words."""

from collections.abc import Sequence


def before_image(system: str = "", history: Sequence[tuple[str, str]] = ()) -> str:
    """Everything in front of the image: `<s> {system} user: .. assistant: .. </s> user:`."""
    turns = "".join(f"user: {asked} assistant: {answered} </s> " for asked, answered in history)
    return f"<s> {system} {turns}user:"


def request(kind: str, text: str) -> str:
    """What is asked: a box by the prompt "locate {expression}", a word by the question itself."""
    return f"locate {text}" if kind == "rec" else text
