"""Every reader of boxes on every kind of text: it gives a box inside of the image, or none, and never raises."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundprune.boxes import CODECS, Box, make_codec
from groundprune.evaluation.protocols import Protocol
from groundprune.families.grounding import Grounding

SIZES = {"bbox-2d-pixels": {"width": 644, "height": 476}}
PIECES = [
    "[", "]", "{", "}", "<", ">", "(", ")", ",", ", ", ";", ".", "-", "+", "e", "1e9", "nan", "inf", "0", "1", "0.5",
    "99", "1000", "9" * 400, "٣", "\n", "\0", "<loc0307>", "<loc_120>", "<patch_index_0044>", '"bbox_2d": [',
    "<|box_start|>", "<box>[[", "]]</box>", "[0.1,0.2,0.3,0.4]", "{<1><2><3><4>}", "(1,2),(3,4)",
]  # fmt: skip
TEXTS = st.text() | st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def made(codec):
    return make_codec(codec, **SIZES.get(codec, {}))


@given(said=TEXTS)
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_codecs(codec, said):
    box = made(codec).decode(said)
    assert box is None or (box.area > 0 and all(0 <= edge <= 1 for edge in box))


@given(said=TEXTS)
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_an_answer_cut_off_or_prefixed(codec, said):
    language = made(codec)
    whole = language.encode(Box(0.11, 0.22, 0.61, 0.83))
    for text in (said + whole, whole + said, whole[: len(said)]):
        language.decode(text)
    assert language.decode(whole) is not None


@given(said=TEXTS)
def test_the_papers_protocol(said):
    grounding = Grounding("{expression}", "{question}", "llava", "padded")
    box = Protocol.of("paper", grounding).read(said, 640, 480)
    assert box is None or json.dumps(list(box), allow_nan=False)


def test_a_number_too_large_is_no_box():
    grounding = Grounding("{expression}", "{question}", "llava", "padded")
    assert Protocol.of("paper", grounding).read(f"[0, 0, {'9' * 400}, 1]", 640, 480) is None
