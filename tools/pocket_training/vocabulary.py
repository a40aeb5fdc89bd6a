"""Word-level vocabularies and tokenizers of the pocket model, and its box language.

A box is said as LLaVA says it, `[0.12, 0.34, 0.56, 0.78]`, as shares of the image's side. Split at blanks
that is four words, so the vocabulary holds a hundred words of each of the forms `[0.12,`, `0.34,`, `0.78]`.
"""

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from groundprune.pocket.questions import EXTREMES, PLURAL, RELATIONS
from groundprune.pocket.scenes import COLORS, IMAGE_SIZE, SHAPES, SIZES

from .prefixes import prefix_words

BINS = 100  # per axis; a bin is 1.44 pixels
PAD, BOS, EOS, UNK, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
LM_SPECIALS = (PAD, BOS, EOS, UNK, IMAGE)
# `CLIPTextModel` pools at the largest id when its eos id is 2 (an old convention), so it must not be 2 here.
CLIP_SPECIALS = (PAD, BOS, UNK, EOS)
CLIP_MAX_TOKENS = 32

_QUESTION_WORDS = "the a object what color shape is size small or large how many there yes no locate of left right"
_SPARE_WORDS = (
    "an and are at to that it where which find show tell me please image picture scene photo background nothing on "
    "in side big little tall top bottom center near between one two three colour item thing with for not see "
    "describe point out box assistant's side user's"
)


def words() -> list[str]:
    """All plain words, sorted: of questions, of prefixes, and a few that a user may add."""
    found = set(f"{_QUESTION_WORDS} {_SPARE_WORDS}".split()) | prefix_words()
    found |= {*SHAPES, *COLORS, *SIZES, *EXTREMES, *PLURAL.values(), *(str(n) for n in range(10))}
    found |= {word for relation in RELATIONS for word in relation.split()}
    return sorted(found)


OPEN = tuple(f"[{i / BINS:.2f}," for i in range(BINS))
MIDDLE = tuple(f"{i / BINS:.2f}," for i in range(BINS))
CLOSE = tuple(f"{i / BINS:.2f}]" for i in range(BINS))

LM_WORDS = (*LM_SPECIALS, "user:", "assistant:", *words(), *OPEN, *MIDDLE, *CLOSE)
LM_IDS = {word: i for i, word in enumerate(LM_WORDS)}
CLIP_WORDS = (*CLIP_SPECIALS, *words())
CLIP_IDS = {word: i for i, word in enumerate(CLIP_WORDS)}
FIRST_BIN = {form: LM_IDS[form[0]] for form in (OPEN, MIDDLE, CLOSE)}


def box_text(box: tuple[int, int, int, int]) -> str:
    """Pixels to text: `(17, 49, 81, 112)` is "[0.12, 0.34, 0.56, 0.78]"."""
    bins = [min(BINS - 1, round(edge / IMAGE_SIZE * BINS)) for edge in box]
    return f"{OPEN[bins[0]]} {MIDDLE[bins[1]]} {MIDDLE[bins[2]]} {CLOSE[bins[3]]}"


def lm_ids(text: str) -> list[int]:
    """What the tokenizer gives for text that is lower case and known already, only faster."""
    return [LM_IDS[word] for word in text.split()]


def clip_ids(text: str) -> list[int]:
    """The same for the text tower, with the ends that its tokenizer adds."""
    return [CLIP_IDS[BOS], *(CLIP_IDS[word] for word in text.split()), CLIP_IDS[EOS]]


def make_lm_tokenizer() -> PreTrainedTokenizerFast:
    """Words to ids for the language model, `<s>` first."""
    tokenizer = _word_level(LM_IDS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, LM_IDS[BOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNK,
        extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False, padding_side="left", model_max_length=1024,
    )  # fmt: skip


def make_clip_tokenizer() -> PreTrainedTokenizerFast:
    """Words to ids for the text tower, between `<s>` and `</s>`."""
    tokenizer = _word_level(CLIP_IDS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, CLIP_IDS[BOS]), (EOS, CLIP_IDS[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNK,
        clean_up_tokenization_spaces=False, padding_side="right", model_max_length=CLIP_MAX_TOKENS,
    )  # fmt: skip


def _word_level(ids: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(dict(ids), unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace("colour", "color"),
            # Marks that end a word go; those of the box language follow a digit and stay.
            normalizers.Replace(Regex(r"(?<=[a-z])[.,;!?]+(?=\s|$)"), ""),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer
