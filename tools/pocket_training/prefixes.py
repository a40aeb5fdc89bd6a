"""What may stand before the image: system sentences and earlier turns, made from a small grammar."""

_OPENINGS = (
    "you are a {adjective} assistant",
    "a chat between a {adjective} user and a {adjective} assistant",
    "this is a {adjective} conversation about {topic}",
    "the user asks about {topic}",
)
_DUTIES = (
    "answer {manner}",
    "look at {topic} and answer {manner}",
    "please give {adjective} answers",
    "the assistant answers {manner}",
    "do not say more than you see",
    "locate what the user asks for",
)
_ADJECTIVES = ("helpful", "polite", "careful", "curious", "short", "precise", "detailed", "artificial", "human")
_TOPICS = ("the image", "the picture", "this scene", "simple shapes", "what you see", "a photo of objects")
_MANNERS = (
    "briefly",
    "with care",
    "in a few words",
    "the questions of the user",
    "with a word or a box",
    "truthfully",
)
_SMALL_TALK = (
    ("hello", "hello"), ("how are you", "i am fine thank you"), ("can you see", "yes please show me the picture"),
    ("what color is the sky", "blue"), ("what color is grass", "green"), ("is the sun large", "yes"),
    ("how many days are in a week", "7"), ("what is this", "a picture of simple shapes"),
    ("is there a star in the sky", "yes"), ("what shape is the moon", "circle"), ("thank you", "you are welcome"),
)  # fmt: skip

MAX_SYSTEM_WORDS = 24
# The sentence that LLaVA-1.5 is usually prompted with; its words are in the vocabulary too.
LLAVA_SYSTEM = (
    "a chat between a curious human and an artificial intelligence assistant the assistant gives helpful detailed "
    "and polite answers to the human's questions"
)


def draw_system(rng) -> str:
    """A system message of one to three sentences, at most `MAX_SYSTEM_WORDS` words."""
    words = _fill(rng, _pick(rng, _OPENINGS)).split()
    for _ in range(rng.integers(0, 3)):
        words += _fill(rng, _pick(rng, _DUTIES)).split()
    return " ".join(words[:MAX_SYSTEM_WORDS])


def draw_history(rng, turns: int) -> list[tuple[str, str]]:
    """Earlier (user, assistant) turns that have nothing to do with the image."""
    return [_pick(rng, _SMALL_TALK) for _ in range(turns)]


def prefix_words() -> set[str]:
    """All words that the grammar can say."""
    slots = (*_ADJECTIVES, *_TOPICS, *_MANNERS, LLAVA_SYSTEM)
    frames = " ".join((*_OPENINGS, *_DUTIES)).replace("{", " {").split()
    said = {word for word in frames if not word.startswith("{")}
    said |= {word for text in slots for word in text.split()}
    return said | {word for turn in _SMALL_TALK for text in turn for word in text.split()}


def _fill(rng, sentence: str) -> str:
    for slot, options in (("{adjective}", _ADJECTIVES), ("{topic}", _TOPICS), ("{manner}", _MANNERS)):
        while slot in sentence:
            sentence = sentence.replace(slot, _pick(rng, options), 1)
    return sentence


def _pick(rng, options):
    return options[rng.integers(len(options))]
