"""The prompts of a proof: those at which a position could go wrong, and how each is seen to have come about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from groundprune.exactness.folders import prompt
from groundprune.families.base import family_of
from groundprune.integrations.vllm.proof_images import Images
from groundprune.integrations.vllm.saying import Request, Said, inputs_of

BLOCK = 32  # slots of a block of the cache; what kernels for CPUs can do
BUDGET = 256  # tokens of a step of the engine


class Case(NamedTuple):
    """Requests that are answered at once, each of them compared.

    names: of each. before: requests that are answered earlier, one by one. check: what did not come about, by the
    answer; None where all did.
    """

    names: tuple[str, ...]
    requests: list[Request]
    before: tuple[Request, ...] = ()
    check: Callable[[Said], str | None] = lambda said: None


def one_image(processor: Any, images: Images, words: str, before: int = 0, first: str = "w21") -> Request:
    """The first image and words. before: how many words stand in front of it, the first of them `first`."""
    text = prompt(processor, 1, words)
    return (f"{first} {'w22 ' * (before - 1)}{text}" if before else text), images.both[:1]


def cases(config: Any, processor: Any, images: Images, dropped: int) -> list[Case]:
    """In the order in which one engine is to be asked, whose steps are of `BUDGET` and whose blocks are of `BLOCK`.

    Args:
        config: of the model.
        processor: its own.
        images: see `choose_images`.
        dropped: how many tokens of the first are.
    """
    token = family_of(config).token_ids(config)["image"]
    visual = (inputs_of(processor, *one_image(processor, images, "the"))["input_ids"][0] == token).nonzero()
    first = int(visual[0])  # in front of it nothing is dropped
    width = int(visual[-1]) + 1 - first - dropped  # of the image, in slots
    half = width // 2

    def ends_inside(said: Said, at: int) -> str | None:
        slots = [i for i, each in enumerate(said.prompt) if each == token]
        return None if slots[0] < at <= slots[-1] else f"{at} is not inside of its image, {slots[0]} to {slots[-1]}"

    def covered(said: Said) -> str | None:
        last = max(i for i, each in enumerate(said.prompt) if each == token)
        return None if said.cached > last else f"{said.cached} slots were cached, its image goes to {last}"

    # As many words as let the last block that begins in the image begin there; the next holds words that differ.
    inside = (min(half, BLOCK // 2) - first - width) % BLOCK or BLOCK
    split = BUDGET - first - half
    long = "the red circle " * (BLOCK // 3 + 1)  # so that the block in which a prompt ends holds no image
    repeated = one_image(processor, images, f"w30 {long}")
    two = prompt(processor, 2, "w31 circle w40 w41 the"), images.both[::-1]
    alone = prompt(processor, 0, "the red w50 w51"), []
    return [
        Case(("one image", "two images", "text alone"), [one_image(processor, images, "the red w20"), two, alone]),
        Case(("repeated prompt",), [repeated], (repeated,), covered),
        Case(
            ("prefix hit inside of an image",),
            [one_image(processor, images, "w33 the circle", inside)],
            (one_image(processor, images, "w32 red", inside),),
            lambda said: ends_inside(said, said.cached),
        ),
        Case(
            ("chunk that ends inside of an image",),
            [one_image(processor, images, "w34 red circle", split, "w23")],
            check=lambda said: ends_inside(said, BUDGET),
        ),
    ]
