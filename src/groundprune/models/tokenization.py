"""Prompts cut at their images and tokenised piece by piece, as the authors' code of 2023 does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from PIL import Image
from transformers import BatchFeature, ProcessorMixin
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from groundprune.errors import GroundPruneError

# How the chat templates begin: `content` is that of the one turn that was trained, `text` its words.
ONE_TURN = (
    "{% if messages|length != 1 or messages[0]['role'] != 'user' %}"
    "{{ raise_exception('one user turn is supported') }}{% endif %}"
    "{% set content = messages[0]['content'] %}"
    "{% set text = content if content is string else content|selectattr('type', 'equalto', 'text')"
    "|map(attribute='text')|join(' ') %}"
)


class SegmentProcessor(ProcessorMixin):
    """Text with image marks, and images, to input_ids, attention_mask and pixel_values.

    Tokenising the whole string at once would give other ids around an image: SentencePiece puts its dummy prefix in
    front of each piece. What a text spells can never become a special token. Padding is on the left.

    image_seq_length: visual tokens per image.
    """

    image_token: ClassVar[str]  # the mark of an image in a prompt
    placeholder_token: ClassVar[str]  # what stands image_seq_length times for it in input_ids
    before_image: ClassVar[str | None] = None  # special tokens around the placeholders
    after_image: ClassVar[str | None] = None
    beginnings: ClassVar[int] = 1  # BOS tokens in front
    strips: ClassVar[bool] = False  # white space around an image is dropped

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: str | None = None,
    ):
        # The torchvision backend, where that is installed, resizes to other pixels.
        if not isinstance(image_processor, CLIPImageProcessorPil):
            image_processor = CLIPImageProcessorPil.from_dict(image_processor.to_dict())
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.tokenizer.padding_side = "left"
        self.image_seq_length = image_seq_length

    @property
    def image_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(self.placeholder_token)

    def prepare_image(self, image: Image.Image) -> Image.Image:
        """What happens to an RGB image before it is resized."""
        return image

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        images: Image.Image | Sequence[Any] | None = None,
        text: str | Sequence[str] | None = None,
        padding: bool | str = False,
        return_tensors: str | None = None,
        padding_side: str = "left",
        add_special_tokens: bool = True,
        **others: Any,
    ) -> BatchFeature:
        """images: one, or all images of all texts in order (lists per text are joined). add_special_tokens has no
        effect: `apply_chat_template` turns it off for a prompt that spells its BOS, and ids() knows of that.

        Raises GroundPruneError where the texts do not mark as many images as are given, and for any other argument
        that is not None: `apply_chat_template` passes some that are.
        """
        if padding_side != "left":
            raise GroundPruneError(f"padding is on the left (got padding_side {padding_side!r})")
        foreign = [name for name, value in others.items() if value is not None]
        if foreign:
            raise GroundPruneError(f"unknown arguments {foreign} (allowed: images, text, padding, return_tensors)")
        texts = [text] if isinstance(text, str) else list(text or [])
        flat = _flat([] if images is None else images)
        marks = sum(each.count(self.image_token) for each in texts)
        if marks != len(flat):
            raise GroundPruneError(f"the text marks {marks} images with {self.image_token}; {len(flat)} were given")
        padded = self.tokenizer.pad({"input_ids": [self.ids(each) for each in texts]}, padding=padding)
        data = dict(padded)
        if flat:
            ready = [self.prepare_image(image.convert("RGB")) for image in flat]
            data["pixel_values"] = self.image_processor(images=ready)["pixel_values"]
        return BatchFeature(data=data, tensor_type=return_tensors)

    def ids(self, text: str) -> list[int]:
        """The token ids of one prompt, without padding. The BOS that a prompt spells in front is not counted."""
        pieces = text.removeprefix(self.tokenizer.bos_token).split(self.image_token)
        found = [self.tokenizer.bos_token_id] * self.beginnings + self._piece(pieces[0], last=len(pieces) == 1)
        for i, piece in enumerate(pieces[1:], start=1):
            found += self._image() + self._piece(piece, first=False, last=i == len(pieces) - 1)
        return found

    def _piece(self, text: str, first: bool = True, last: bool = False) -> list[int]:
        if self.strips:
            text = text if first else text.lstrip()
            text = text if last else text.rstrip()
        # An empty piece is nothing; the tokenizer would still give its dummy prefix.
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []

    def _image(self) -> list[int]:
        around = [self.before_image, *[self.placeholder_token] * self.image_seq_length, self.after_image]
        return self.tokenizer.convert_tokens_to_ids([token for token in around if token is not None])


def _flat(images: Any) -> list[Image.Image]:
    if isinstance(images, Image.Image):
        return [images]
    return [image for entry in images for image in _flat(entry)]


def clip_images(side: int) -> CLIPImageProcessorPil:
    """CLIP's preprocessing to side x side pixels, squeezed and not cropped (bicubic, CLIP's mean and std)."""
    return CLIPImageProcessorPil(size={"height": side, "width": side}, do_center_crop=False)
