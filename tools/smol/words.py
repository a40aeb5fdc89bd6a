"""What the language model reads and says: its own tokenizer, grown by words for box edges, and its chat template.

A box is said as LLaVA says it, `[0.12, 0.34, 0.56, 0.78]`, as shares of the image's side, in four tokens: the
tokenizer gets a hundred words of each of the forms `[0.12,`, ` 0.34,` and ` 0.78]`.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor

from .questions import Question
from .scenes import IMAGE_SIZE

BINS = 100
IMAGE = "<image>"
OPEN = tuple(f"[{i / BINS:.2f}," for i in range(BINS))
MIDDLE = tuple(f" {i / BINS:.2f}," for i in range(BINS))
CLOSE = tuple(f" {i / BINS:.2f}]" for i in range(BINS))
FORMS = (OPEN, MIDDLE, CLOSE)
ADDED = (IMAGE, *OPEN, *MIDDLE, *CLOSE)
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # of the stock template
REQUESTS = {"rec": "locate {}", "vqa": "{}"}

_SYSTEMS = (
    DEFAULT_SYSTEM, "You are a helpful assistant.", "Answer briefly.", "You look at pictures and answer questions.",
    "You are a careful assistant. Say no more than you see, and locate what the user asks for.",
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions.",
)  # fmt: skip
_TALK = (
    ("hello", "Hello! How can I help you?"), ("can you see?", "Yes, please show me a picture."),
    ("what color is the sky?", "The sky is blue."), ("how many days are in a week?", "7"),
    ("thank you", "You are welcome."),
    ("are dogs animals?", "yes"), ("name a fruit", "apple"),
)  # fmt: skip


def box_text(box: tuple[int, int, int, int]) -> str:
    """Pixels to text: `(18, 36, 90, 135)` is "[0.10, 0.20, 0.50, 0.75]"."""
    bins = [min(BINS - 1, round(edge / IMAGE_SIZE * BINS)) for edge in box]
    return f"{OPEN[bins[0]]}{MIDDLE[bins[1]]}{MIDDLE[bins[2]]}{CLOSE[bins[3]]}"


class Words:
    """Text to token ids in the chat template, and what of them is a box edge."""

    def __init__(self, tokenizer: Any):
        """tokenizer: of the language model; it is grown."""
        self.known = len(tokenizer)  # tokens of the language model's own
        tokenizer.add_tokens([AddedToken(word, normalized=False, special=word == IMAGE) for word in ADDED])
        self.tokenizer = tokenizer
        self.end = tokenizer.eos_token_id
        self.image = tokenizer.convert_tokens_to_ids(IMAGE)

    def __len__(self) -> int:
        return len(self.tokenizer)

    @cached_property
    def first_bins(self) -> tuple[int, int, int]:
        """The ids of 0.00 in each form; those of the other bins follow."""
        return tuple(self.tokenizer.convert_tokens_to_ids(form[0]) for form in FORMS)  # type: ignore[return-value]

    def ids(self, text: str) -> list[int]:
        """Without any that the tokenizer would put around it."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def before_image(self, system: str = DEFAULT_SYSTEM, history: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Everything in front of the image."""
        said = [("system", system), *(turn for a, b in history for turn in (("user", a), ("assistant", b)))]
        past = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in said)
        return self.ids(f"{past}<|im_start|>user\n")

    def turn(self, question: Question) -> tuple[list[int], list[int]]:
        """Token ids of what is asked behind the image and of what is answered, with its end."""
        text = question.text if question.given is None else question.text.format(box_text(question.given))
        asked = f"\n{REQUESTS[question.kind].format(text)}<|im_end|>\n<|im_start|>assistant\n"
        answer = box_text(question.box) if question.box else question.answer
        return self.ids(asked), [*self.ids(answer or ""), self.end]

    def draw_prefix(self, rng, length: int) -> list[int]:
        """A prefix of at most `length` tokens: a system sentence, sometimes earlier turns."""
        for _ in range(8):
            system = DEFAULT_SYSTEM if rng.random() < 0.4 else _SYSTEMS[int(rng.integers(len(_SYSTEMS)))]
            history = [_TALK[int(rng.integers(len(_TALK)))] for _ in range(int(rng.integers(0, 3)))]
            ids = self.before_image(system, history)
            if len(ids) <= length:
                return ids
        return self.before_image("Answer briefly.")

    def grown(self, embeddings: Tensor) -> Tensor:
        """Rows for the added words, [301, D], to begin with: near bins are near, forms differ.

        embeddings [V, D]: of the words that the language model knows.
        """
        generator = torch.Generator().manual_seed(0)
        spread = embeddings.std()
        waves = torch.randn(12, embeddings.shape[1], generator=generator)
        place = torch.arange(BINS)[:, None] / BINS * torch.arange(1, 7) * math.pi
        smooth = torch.cat([place.sin(), place.cos()], 1) @ waves / math.sqrt(6)
        rows = [torch.zeros_like(embeddings[:1])]
        for form in FORMS:
            pieces = self.tokenizer(form[12].strip("[] ,") + form[12][-1], add_special_tokens=False)["input_ids"]
            middle = embeddings[[piece for piece in pieces if piece < self.known]].mean(0)
            own = torch.randn(1, embeddings.shape[1], generator=generator)
            rows.append(middle + 0.5 * spread * (smooth + own))
        return torch.cat(rows)
