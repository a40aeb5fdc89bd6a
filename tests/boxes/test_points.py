"""Points: every language is read as its model writes it, and none reads another's boxes."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from groundprune.boxes import CODECS, FRAMES, POINT_CODECS, Box, make_codec, make_frame, make_point_codec
from groundprune.boxes.points import PointOrCentre, to_pixels
from groundprune.errors import GroundPruneError
from groundprune.families import families

WIDTH, HEIGHT = 640, 480  # of the resized image
PIXELS, THOUSANDTHS = ("point-2d-pixels", "ui-tars-pixels"), ("point-2d-1000", "ui-tars-1000")


def codec(name):
    return make_point_codec(name, WIDTH, HEIGHT)


def boxes_of(name):
    return make_codec(name, **({"width": WIDTH, "height": HEIGHT} if name == "bbox-2d-pixels" else {}))


QWEN = [
    ("(160, 120)", (160, 120)),
    ("It is at (160,120).", (160, 120)),
    ("(160,120) (the button)", (160, 120)),
    ('{"point_2d": [160, 120]}', (160, 120)),
    ('```json\n[\n\t{"point_2d": [160, 120], "label": "close this window"}\n]\n```', (160, 120)),
    ("{'point_2d':[160.0,120.0", None),  # cut off
    ('{"point_2d": [160, 120', None),
    ('{"point_2d": [160, 120], "label": "cl', (160, 120)),
    ('<tool_call>\n{"name": "computer_use", "arguments": {"action": "left_click", "coordinate": [160, 120]}}\n'
     "</tool_call>", (160, 120)),
    ('{"action": "left_click", "coordinate": [150, 100, 170, 140]}', (160, 120)),  # a box: its centre
    ('{"action": "left_click", "coordinate": [170, 100, 150, 140]}', None),  # edges swapped
    ('{"point_2d": [150, 100, 170, 140]}', None),
    ('{"point_2d": [160]} (160, 120)', None),  # malformed, whatever follows
    ('{"point_2d": "160, 120"}', None),
    ('first (9, 9), then {"point_2d": [160, 120]}', (160, 120)),  # the key is the answer
    ('{"bbox_2d": [10, 20, 30, 40], "point_2d": [160, 120]}', (160, 120)),
    ('{"coordinate2": [160, 120]}', None),
    ("(-1, 120)", None),
    ("(1e3, 120)", None),
    ("[160, 120]", None),
    ("(160, 120, 170, 140)", None),
    ("(160 120)", None),
    ("(160,120),(170,140)", None),  # Qwen2-VL's box
    ("(160,120),(17", None),
    ("(160,120) (170,140)", None),
    ("", None),
]  # fmt: skip
UI_TARS = [
    ("Action: click(start_box='(160,120)')", (160, 120)),
    ("Thought: I see (1, 2).\nAction: click(start_box='(160,120)')", (160, 120)),
    ("Action: click(start_box='<|box_start|>(160,120)<|box_end|>')", (160, 120)),
    ("<|box_start|>(160,120)<|box_end|>", (160, 120)),
    ("Action: click(point='<point>160 120</point>')", (160, 120)),
    ("<point>160 120</point>", (160, 120)),
    ("Action: drag(start_box='(160,120)', end_box='(9,9)')", (160, 120)),
    ('Action: click(start_box="[150, 100, 170, 140]")', (160, 120)),
    ("Action: click(start_box='(160,120,160,120)')", (160, 120)),
    (" (160, 120)\n", (160, 120)),
    ("Action: click(start_box='(x1,y1)')", None),
    ("Action: click(start_box='(160)')\n(160,120)", None),
    ("Thought: I see (160, 120).", None),
    ("Action: click(start_box='(160,12", None),
    ("<|box_start|>(160,120),(170,140)<|box_end|>", None),
    ("<point>160 120", None),
    ("[160, 120]", None),
    ("type(content='(160,120)')", None),
]
SHARES = [
    ("(0.25, 0.25)", (0.25, 0.25)),
    ("[.25,0.250]", (0.25, 0.25)),
    ("The centre is [0.25, 0.25].", (0.25, 0.25)),
    ("[[0.25, 0.25]]", (0.25, 0.25)),
    ("(1, 0)", (1, 0)),
    ("(1.01, 0.5)", None),
    ("(160, 120)", None),
    ("[0.1, 0.2, 0.3, 0.4]", None),
    ("[0.1, 0.2], [0.3, 0.4]", None),
    ("[0.1,0.2,0.3,0.4;0.5,0.6,0.7,0.8]", None),
]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        *((name, *case) for name in ("point-2d-pixels", "point-2d-1000") for case in QWEN),
        *((name, *case) for name in ("ui-tars-pixels", "ui-tars-1000") for case in UI_TARS),
        *(("shares", *case) for case in SHARES),
    ],
)
def test_answers_are_read_in_their_own_scale(name, text, said):
    scale = (WIDTH, HEIGHT) if name in PIXELS else (1000, 1000) if name in THOUSANDTHS else (1, 1)
    expected = None if said is None else pytest.approx((said[0] / scale[0], said[1] / scale[1]))
    assert codec(name).decode(text) == expected


@pytest.mark.parametrize("name", sorted(POINT_CODECS))
@settings(max_examples=60, deadline=None)
@given(x=st.floats(0, 1), y=st.floats(0, 1))
@example(x=0.0, y=1.0)
def test_a_point_comes_back_to_half_a_step(name, x, y):
    made = codec(name)
    text = made.encode((x, y))
    back = made.decode(text)
    assert back is not None
    step = 0.01 if name == "shares" else 1
    assert abs(back[0] - x) <= step / 2 / made.grid[0] + 1e-9
    assert abs(back[1] - y) <= step / 2 / made.grid[1] + 1e-9
    assert made.encode(back) == text


@pytest.mark.parametrize("name", sorted(POINT_CODECS))
@given(box=st.builds(Box, *(st.floats(0, 0.4),) * 2, *(st.floats(0.6, 1),) * 2), of=st.sampled_from(sorted(CODECS)))
def test_no_language_of_points_reads_a_box(name, of, box):
    text = boxes_of(of).encode(box)
    assert codec(name).decode(text) is None
    assert not codec(name).speaks(text)


ALPHABET = st.sampled_from([
    *"()[]{}<>,.:;='\"+- \n0123456789ex\u0661\u00e9", '"point_2d"', "'coordinate': [", "start_box='(", "<point>",
    "</point>", "<|box_start|>", "0.5", "nan", "inf", "1e999", "9" * 400,
])  # fmt: skip


@settings(deadline=None)
@given(st.lists(ALPHABET, max_size=40).map("".join))
def test_whatever_a_model_says_is_a_point_in_the_frame_or_none(text):
    for name in POINT_CODECS:
        found = codec(name).decode(text)
        assert found is None or all(0 <= v <= 1 for v in found)  # false for NaN, too
        assert found is None or codec(name).speaks(text)


PIECES = ["(", "[", "( ", "(1", "(1,", "(1,1),(", "1", "-.", '"point_2d": [', '"coordinate": [1,1,', "start_box=",
          "start_box='(1,1", "<point>1 ", "\n", " "]  # fmt: skip


@pytest.mark.parametrize("name", sorted(POINT_CODECS))
def test_work_grows_with_the_length_alone(name):
    """A quadratic search takes 400 times as long on the text of 20 times the length; timing noise does not."""
    made = codec(name)

    def took(repeats):
        start = time.process_time()
        for piece in PIECES:
            made.decode(piece * repeats + "(" + "1" * repeats + " " * repeats)
        return time.process_time() - start

    short = min(took(1000) for _ in range(3))
    assert min(took(20_000) for _ in range(2)) < 100 * max(short, 1e-4)


@pytest.mark.parametrize("frame", sorted(FRAMES))
@pytest.mark.parametrize("size", [(640, 480), (300, 900)])
def test_points_go_through_frames_as_boxes_do(frame, size):
    made = make_frame(frame, *size)
    box = Box(size[0] * 0.45, size[1] * 0.45, size[0] * 0.5, size[1] * 0.6)
    assert to_pixels(made.to_unit(box).centre, made) == pytest.approx(box.centre)
    assert list(made.to_pixels(made.to_unit(box))) == pytest.approx(list(box))


def test_a_point_in_the_padding_is_no_point_of_the_image():
    padded = make_frame("padded", 640, 480)
    assert to_pixels((0.5, 0.05), padded) == pytest.approx((320, 0.05 * 640 - 80))
    assert to_pixels((0.5, 0.05), padded)[1] < 0  # a box would be moved to the border


@pytest.mark.parametrize(
    ("points", "boxes", "text", "expected"),
    [
        (None, "llava", "[0.10, 0.20, 0.30, 0.40]", (0.2, 0.3)),
        (None, "paligemma", "<loc0000><loc0000><loc1023><loc1023> mug", (0.5, 0.5)),
        (None, "llava", "(0.2, 0.3)", None),  # was asked for a box
        ("point-2d-1000", "bbox-2d-1000", '{"bbox_2d": [100, 200, 300, 400]}', (0.2, 0.3)),
        ("point-2d-1000", "bbox-2d-1000", '{"bbox_2d": [0, 0, 2, 2], "point_2d": [200, 300]}', (0.2, 0.3)),
        ("point-2d-1000", "bbox-2d-1000", '{"bbox_2d": [0, 0, 2, 2], "point_2d": [200]}', None),
        ("ui-tars-1000", "qwen2-vl", "<|box_start|>(100,200),(300,400)<|box_end|>", (0.2, 0.3)),
        ("ui-tars-1000", "qwen2-vl", "nowhere", None),
    ],
)
def test_a_box_counts_by_its_centre_where_no_point_is_said(points, boxes, text, expected):
    reader = PointOrCentre(None if points is None else codec(points), boxes_of(boxes))
    assert reader.decode(text) == (None if expected is None else pytest.approx(expected))


def test_on_an_edge_is_inside():
    box = Box(1, 2, 3, 4)
    assert all(box.holds(point) for point in [(1, 2), (3, 4), (1, 4), (2, 3)])
    assert not any(box.holds(point) for point in [(0.999, 3), (3.001, 3), (2, 1.999), (2, 4.001), (float("nan"), 3)])


def test_names_and_sizes_that_cannot_be():
    with pytest.raises(GroundPruneError, match="unknown point codec 'point-2d'"):
        make_point_codec("point-2d", 1, 1)
    with pytest.raises(GroundPruneError, match="needs the width and height of the resized image"):
        make_point_codec("ui-tars-pixels", 0, 5)


def test_the_codecs_that_families_name_exist():
    named = {family.grounding.point_codec for family in families().values()} - {None}
    assert named == {"point-2d-pixels", "point-2d-1000"}
    assert named <= set(POINT_CODECS)
