import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundprune.boxes import (
    CODECS,
    FRAMES,
    Box,
    CroppedFrame,
    LlavaCodec,
    OriginalFrame,
    PaddedSquareFrame,
    ShikraCodec,
    iou,
    make_codec,
    make_frame,
    register_codec,
    register_frame,
)

sides = st.integers(1, 5000)
units = st.floats(0, 1)
coordinates = st.floats(-1e4, 1e4)
any_boxes = st.builds(Box, *[st.floats()] * 4)


SETTINGS = {"bbox-2d-pixels": {"width": 640, "height": 476}}  # what a codec cannot do without


@st.composite
def boxes(draw, edges=coordinates):
    x1, x2 = sorted((draw(edges), draw(edges)))
    y1, y2 = sorted((draw(edges), draw(edges)))
    return Box(x1, y1, x2, y2)


class TestIou:
    @pytest.mark.parametrize(
        ("a", "b", "expected"),
        [
            (Box(0, 0, 10, 10), Box(0, 0, 10, 10), 1),
            (Box(0, 0, 10, 10), Box(5, 0, 15, 10), 1 / 3),
            (Box(0, 0, 10, 10), Box(5, 5, 15, 15), 25 / 175),
            (Box(0, 0, 10, 10), Box(2, 3, 4, 8), 0.1),
            (Box(0, 0, 10, 10), Box(10, 0, 20, 10), 0),
            (Box(0, 0, 10, 10), Box(20, 20, 30, 30), 0),
            (Box(0, 0, 0, 10), Box(0, 0, 0, 10), 0),
            (Box(10, 10, 0, 0), Box(10, 10, 0, 0), 0),
            (Box(math.nan, 0, 1, 1), Box(0, 0, 1, 1), 0),
            (Box(0, 0, math.inf, 1), Box(0, 0, math.inf, 1), 0),
        ],
    )
    def test_known_values(self, a, b, expected):
        assert iou(a, b) == pytest.approx(expected, abs=1e-12)

    @given(any_boxes, any_boxes)
    def test_is_symmetric_and_bounded_for_anything(self, a, b):
        assert 0 <= iou(a, b) <= 1
        assert iou(a, b) == iou(b, a)

    @given(boxes(st.integers(-100, 100)), boxes(st.integers(-100, 100)))
    def test_counts_cells(self, a, b):
        def cells(box):
            return {(x, y) for x in range(box.x1, box.x2) for y in range(box.y1, box.y2)}

        union = cells(a) | cells(b)
        expected = len(cells(a) & cells(b)) / len(union) if cells(a) and cells(b) else 0
        assert iou(a, b) == pytest.approx(expected)


def test_box_from_xywh_and_unpacking():
    box = Box.from_xywh(10, 20, 30, 40)
    assert tuple(box) == (10, 20, 40, 60)
    assert (box.width, box.height, box.area) == (30, 40, 1200)


class TestFrames:
    @pytest.mark.parametrize(
        ("frame", "unit"),
        [
            (OriginalFrame(640, 480), Box(0.25, 0.5, 0.5, 1)),
            (PaddedSquareFrame(640, 480), Box(0.25, 0.5, 0.5, 0.875)),
            (PaddedSquareFrame(480, 641), Box((160 + 80) / 641, 240 / 641, (320 + 80) / 641, 480 / 641)),
            (CroppedFrame(640, 480, size=480), Box((160 - 80) / 480, 0.5, 0.5, 1)),
            (CroppedFrame(640, 480, size=240), Box((160 - 80) / 480, 0.5, 0.5, 1)),
        ],
    )
    def test_known_values(self, frame, unit):
        assert tuple(frame.to_unit(Box(160, 240, 320, 480))) == pytest.approx(tuple(unit))

    def test_odd_padding_goes_to_the_bottom_and_the_right(self):
        assert PaddedSquareFrame(10, 7).window == Box(0, -1, 10, 9)
        assert PaddedSquareFrame(7, 10).window == Box(-1, 0, 9, 10)

    def test_crop_follows_both_roundings_of_clip(self):
        # 500 x 333 becomes int(504.50) = 504 x 336, and the crop starts at column (504 - 336) // 2 = 84.
        window = CroppedFrame(500, 333).window
        assert tuple(window) == pytest.approx((84 * 500 / 504, 0, 420 * 500 / 504, 333))

    @pytest.mark.parametrize("name", sorted(FRAMES))
    @given(data=st.data(), width=sides, height=sides)
    def test_pixels_come_back(self, name, data, width, height):
        frame = make_frame(name, width, height)
        x1, x2 = sorted(data.draw(st.tuples(st.floats(0, width), st.floats(0, width))))
        y1, y2 = sorted(data.draw(st.tuples(st.floats(0, height), st.floats(0, height))))
        box = Box(x1, y1, x2, y2)
        assert tuple(frame.to_pixels(frame.to_unit(box))) == pytest.approx(tuple(box), abs=1e-6)

    @pytest.mark.parametrize("name", sorted(FRAMES))
    @given(box=boxes(), width=sides, height=sides)
    def test_pixels_stay_inside_of_the_image(self, name, box, width, height):
        x1, y1, x2, y2 = make_frame(name, width, height).to_pixels(box)
        assert 0 <= x1 <= x2 <= width
        assert 0 <= y1 <= y2 <= height

    @given(width=sides, height=sides)
    def test_padding_holds_the_image_and_is_square(self, width, height):
        window = PaddedSquareFrame(width, height).window
        assert window.width == window.height == max(width, height)
        assert abs((window.x1 + window.x2) - width) <= 1
        assert abs((window.y1 + window.y2) - height) <= 1

    def test_a_box_in_the_padding_is_degenerate(self):
        assert PaddedSquareFrame(640, 480).to_pixels(Box(0.1, 0.01, 0.9, 0.1)).area == 0

    def test_names_and_sizes_are_checked(self):
        with pytest.raises(ValueError, match=r"unknown frame 'pad'.*'padded'.*cropped, original, padded"):
            make_frame("pad", 10, 10)
        with pytest.raises(ValueError, match="0 x 10"):
            make_frame("padded", 0, 10)
        with pytest.raises(ValueError, match="shows nothing"):
            CroppedFrame(10, 10, size=0)
        with pytest.raises(ValueError, match="in use by PaddedSquareFrame"):
            register_frame("padded")(OriginalFrame)


class TestCodecs:
    def test_text(self):
        box = Box(0.12345, 0.3, 0.5, 1)
        assert LlavaCodec().encode(box) == "[0.12, 0.30, 0.50, 1.00]"
        assert LlavaCodec(decimals=3).encode(box) == "[0.123, 0.300, 0.500, 1.000]"
        assert ShikraCodec().encode(box) == "[0.123,0.300,0.500,1.000]"
        assert make_codec("minigpt-v2").encode(box) == "{<12><30><50><100>}"

    def test_edges_beyond_the_frame_are_moved_to_its_border(self):
        assert LlavaCodec().encode(Box(-0.2, -0.001, 1.5, 0.5)) == "[0.00, 0.00, 1.00, 0.50]"

    @pytest.mark.parametrize(
        ("name", "settings", "step", "error"),  # error: how far an edge may move, in steps
        [
            ("llava", {"decimals": 2}, 0.01, 0.5),
            ("llava", {"decimals": 3}, 0.001, 0.5),
            ("shikra", {"decimals": 2}, 0.01, 0.5),
            ("shikra", {"decimals": 3}, 0.001, 0.5),
            ("minigpt-v2", {}, 0.01, 1),
        ],
    )
    @given(box=boxes(units))
    def test_round_trip(self, name, settings, step, error, box):
        codec = make_codec(name, **settings)
        decoded = codec.decode(codec.encode(box))
        if decoded is None:
            assert min(box.width, box.height) <= step * (1 + 1e-6)
        else:
            assert tuple(decoded) == pytest.approx(tuple(box), abs=step * error * (1 + 1e-9))
            assert codec.decode(codec.encode(decoded)) == decoded

    def test_hundredths_stay_what_they_are(self):
        codec = make_codec("minigpt-v2")
        for i in range(100):
            assert codec.encode(Box(0, 0, i / 100, 1)) == f"{{<0><0><{i}><100>}}"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("[0.1, 0.2, 0.3, 0.4]", Box(0.1, 0.2, 0.3, 0.4)),
            ("The mug is at [0.1,0.2,\n0.3 , 0.4].", Box(0.1, 0.2, 0.3, 0.4)),
            ("[ 0, 0, 1, 1. ]", Box(0, 0, 1, 1)),
            ("[.1, +.2, .3, .4]", Box(0.1, 0.2, 0.3, 0.4)),
            ("[0.1, 0.2] [0.1, 0.2, 0.3, 0.4] [0.5, 0.5, 0.6, 0.6]", Box(0.1, 0.2, 0.3, 0.4)),
            ("[[0.1, 0.2, 0.3, 0.4]]", Box(0.1, 0.2, 0.3, 0.4)),
            ("", None),
            ("0.1, 0.2, 0.3, 0.4", None),
            ("[0.1, 0.2, 0.3]", None),
            ("[0.1, 0.2, 0.3, 0.4, 0.5]", None),
            ("[0.1, 0.2, 0.3, 0.4", None),
            ("[0.1, 0.2, 0.3, 1.01]", None),
            ("[-0.1, 0.2, 0.3, 0.4]", None),
            ("[0.3, 0.2, 0.1, 0.4]", None),
            ("[0.1, 0.2, 0.1, 0.4]", None),
            ("[nan, 0.2, 0.3, 0.4]", None),
            ("[0.3, 0.2, 0.1, 0.4] or rather [0.1, 0.2, 0.3, 0.4]", None),
            (f"[{'9' * 5000}, 0.2, 0.3, 0.4]", None),
        ],
    )
    def test_decode(self, text, expected):
        assert LlavaCodec().decode(text) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Answer: [0.123,0.456,0.789,1.000] .", Box(0.123, 0.456, 0.789, 1)),
            ("[0,0,1,1.]", Box(0, 0, 1, 1)),
            ("[[0.1,0.2,0.3,0.4]]", Box(0.1, 0.2, 0.3, 0.4)),
            ("[0.1, 0.2, 0.3, 0.4]", None),
            ("[.1,.2,.3,.4]", None),
            ("[00.1,0.2,0.3,0.4]", None),
            ("[0.1,0.2,0.3,0.4;0.5,0.6,0.7,0.8]", None),
            ("[0.1,0.2,0.3,0.4] [0.5,0.6,0.7,0.8]", None),
            ("[0.1,0.2,0.3]", None),
            ("[0.1,0.2,0.3,1.1]", None),
            ("[0.3,0.2,0.1,0.4]", None),
            ("", None),
        ],
    )
    def test_shikra_reads_as_its_authors_do(self, text, expected):
        assert ShikraCodec().decode(text) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("{<12><30><55><71>}", Box(0.12, 0.3, 0.55, 0.71)),
            (" {<0> <0><unk> <100><100>} .", Box(0, 0, 1, 1)),
            ("{<12><30><55><71>}<delim>{<1><2><3><4>}", None),
            ("{<12><30><55><71>} 2", None),
            ("the box {<12><30><55><71>}", None),
            ("{<12><30><55>}", None),
            ("{<12><30><55><7.1>}", None),
            ("{<12><30><55><101>}", None),
            ("{<12><30><12><71>}", None),
            ("<12><30><55><71>", None),
            ("", None),
        ],
    )
    def test_minigpt_v2_reads_as_its_authors_do(self, text, expected):
        assert make_codec("minigpt-v2").decode(text) == expected

    @pytest.mark.parametrize("name", sorted(CODECS))
    @given(text=st.text() | st.text("[]{}<>019.,;- ", max_size=40))
    def test_decode_gives_a_proper_box_or_none(self, name, text):
        box = make_codec(name, **SETTINGS.get(name, {})).decode(text)
        if box is not None:
            assert 0 <= box.x1 < box.x2 <= 1
            assert 0 <= box.y1 < box.y2 <= 1

    def test_names_and_settings_are_checked(self):
        with pytest.raises(ValueError, match=r"unknown box codec 'lava'.*'llava'.*llava, minigpt-v2, .*shikra"):
            make_codec("lava")
        with pytest.raises(ValueError, match="decimals=0"):
            make_codec("llava", decimals=0)
        with pytest.raises(ValueError, match="'llava' is in use"):
            register_codec(LlavaCodec)

    def test_a_new_language_is_one_decorated_class(self, monkeypatch):
        monkeypatch.setattr("groundprune.boxes.codecs.CODECS", dict(CODECS))

        @register_codec
        class PercentCodec:
            name = "percent"

            def encode(self, box):
                return " ".join(f"{edge:.0%}" for edge in box)

            def decode(self, text):
                edges = re.findall(r"(\d+)%", text)
                return Box(*(int(edge) / 100 for edge in edges)) if len(edges) == 4 else None

        codec = make_codec("percent")
        assert codec.decode(codec.encode(Box(0.1, 0.2, 0.3, 0.4))) == Box(0.1, 0.2, 0.3, 0.4)
