import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.kosmos2.processing_kosmos2 import coordinate_to_patch_index, patch_index_to_coordinate

from groundprune.boxes import FRAMES, Box, make_codec, make_frame
from groundprune.errors import GroundPruneError

THE_BOX = Box(0.12, 0.3, 0.55, 0.71)
LANGUAGES = {  # its settings; the box above; steps along x and y; how many of these an edge may move
    "qwen2-vl": ({}, "<|box_start|>(120,300),(550,710)<|box_end|>", (1000, 1000), 0.5),
    "internvl": ({}, "<box>[[120, 300, 550, 710]]</box>", (1000, 1000), 0.5),
    "bbox-2d-1000": ({}, '```json\n[\n\t{"bbox_2d": [120, 300, 550, 710]}\n]\n```', (1000, 1000), 0.5),
    "bbox-2d-pixels": (
        {"width": 644, "height": 476},
        '```json\n[\n\t{"bbox_2d": [77, 143, 354, 338]}\n]\n```',
        (644, 476),
        0.5,
    ),
    "paligemma": ({}, "<loc0307><loc0123><loc0726><loc0563>", (1023, 1023), 0.5),
    "florence-2": ({}, "<loc_120><loc_300><loc_550><loc_710>", (1000, 1000), 0.5),
    # Its borders are a whole cell away where both corners lie in one row or column.
    "kosmos-2": ({}, "<object><patch_index_0291><patch_index_0721></object>", (32, 32), 1),
}


@pytest.mark.parametrize("name", LANGUAGES)
def test_text(name):
    sizes, text, steps, error = LANGUAGES[name]
    codec = make_codec(name, **sizes)
    assert codec.encode(THE_BOX) == text
    found = codec.decode(f"It is here: {text} I think. {text.replace('1', '2')}")
    assert tuple(found) == pytest.approx(tuple(THE_BOX), abs=error / min(steps) + 1e-9)


@pytest.mark.parametrize("name", LANGUAGES)
def test_edges_beyond_the_frame_are_moved_to_its_border(name):
    codec = make_codec(name, **LANGUAGES[name][0])
    assert codec.encode(Box(-0.3, -5, 1.2, 9)) == codec.encode(Box(0, 0, 1, 1))


@pytest.mark.parametrize("frame_name", sorted(FRAMES))
@pytest.mark.parametrize("name", LANGUAGES)
@settings(max_examples=40)
@given(data=st.data(), size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
def test_round_trip_in_pixels_of_the_image(name, frame_name, data, size):
    """A box inside of what the model saw comes back as precisely as the language's steps allow."""
    sizes, _, steps, error = LANGUAGES[name]
    codec, frame = make_codec(name, **sizes), make_frame(frame_name, *size)
    window = frame.window
    seen = window.clip(*size)
    x1, x2 = sorted(data.draw(st.tuples(*[st.floats(seen.x1, seen.x2)] * 2)))
    y1, y2 = sorted(data.draw(st.tuples(*[st.floats(seen.y1, seen.y2)] * 2)))
    box = Box(x1, y1, x2, y2)
    unit = codec.decode(codec.encode(frame.to_unit(box)))
    along_x, along_y = (side / count for side, count in zip((window.width, window.height), steps, strict=True))
    if unit is None:
        assert box.width <= along_x * (1 + 1e-6) or box.height <= along_y * (1 + 1e-6)
        return
    again = frame.to_pixels(unit)
    assert (again.x1, again.x2) == pytest.approx((box.x1, box.x2), abs=along_x * error * (1 + 1e-6))
    assert (again.y1, again.y2) == pytest.approx((box.y1, box.y2), abs=along_y * error * (1 + 1e-6))


WHOLE = Box(0, 0, 1, 1)
BOTH = ["bbox-2d-1000", "bbox-2d-pixels"]


@pytest.mark.parametrize(
    ("names", "text", "expected"),
    [
        (["qwen2-vl"], "<|object_ref_start|>the mug<|object_ref_end|>(0,0),(1000,1000)", WHOLE),
        (["qwen2-vl"], "( 0 , 0 ) , ( 1000 , 1000 )", WHOLE),
        (["qwen2-vl"], "(0,0),(1001,1000)", None),
        (["qwen2-vl"], "(0,0)(1000,1000)", None),
        (["qwen2-vl"], "(0,0,1000,1000)", None),
        (["qwen2-vl"], "(-1,0),(9,9)", None),
        (["qwen2-vl"], "(9,9),(1,1) or (1,1),(9,9)", None),
        (["internvl"], "<ref>the mug</ref><box>[[0, 0, 1000, 1000]]</box>", WHOLE),
        (["internvl"], "[[0,0,1000,1000], [1,2,3,4]]", WHOLE),
        (["internvl"], "[0, 0, 1000, 1000]", None),
        (["internvl"], "[[0, 0, 1000]]", None),
        (["internvl"], "[[0, 0, 1000, 1000", None),
        (["internvl"], "[[5, 5, 5, 9]] [[0, 0, 9, 9]]", None),
        (["bbox-2d-1000"], '{"bbox_2d": [0, 0, 1000, 1000], "label": "the mug"}', WHOLE),
        (["bbox-2d-1000"], "[{'label': 'a', 'bbox_2d':[0,0,1000,1000]}, {'bbox_2d': [1,2,3,4]}]", WHOLE),
        (["bbox-2d-1000"], '```json\n[{"bbox_2d": [0, 0, 1000.0, 1000], "lab', WHOLE),
        (["bbox-2d-pixels"], '{"bbox_2d": [0, 0, 644, 476]}', WHOLE),
        (["bbox-2d-pixels"], '{"bbox_2d": [0, 0, 476, 644]}', None),
        (BOTH, '{"bbox_2d": [0, 0, 10]} {"bbox_2d": [0, 0, 10, 10]}', None),
        (BOTH, '{"bbox_2d": [0, 0, 10, 10', None),
        (BOTH, '{"bbox_2d": [0, 0, 10, 10, 10]}', None),
        (BOTH, '{"bbox_2d": "0, 0, 10, 10"}', None),
        (BOTH, '{"bbox": [0, 0, 10, 10]}', None),
        (BOTH, '{"bbox_2d": [5, 5, 3, 9]}', None),
        (BOTH, f'{{"bbox_2d": [0, 0, {"9" * 5000}, 10]}}', None),
        (["paligemma"], "<loc0000><loc0000><loc1023><loc1023> mug ; <loc0001><loc0001><loc0002><loc0002> cup", WHOLE),
        (["paligemma"], "<loc0000><loc0000><loc1023><loc1024>", None),
        (["paligemma"], "<loc0000><loc0000><loc1023>", None),
        (["paligemma"], "<loc0512><loc0000><loc0000><loc1023>", None),
        (["paligemma"], "<loc000><loc000><loc102><loc102>", None),
        (["florence-2"], "<loc_5><loc_5><loc_5><loc_9>", None),
        (["florence-2"], "<loc_0><loc_0><loc_1000><loc_9>", None),
        (["kosmos-2"], "<patch_index_0000><patch_index_1024>", None),
        (["kosmos-2"], "<patch_index_0033><patch_index_0000>", None),
        (["kosmos-2"], "<patch_index_0000>", None),
        (list(LANGUAGES), "", None),
        (list(LANGUAGES), "I see no mug.", None),
        (list(LANGUAGES), "[0.1, 0.2, 0.3, 0.4]", None),
    ],
)
def test_decode(names, text, expected):
    for name in names:
        assert make_codec(name, **LANGUAGES[name][0]).decode(text) == expected


@given(st.floats(0, 0.99), st.floats(0, 0.99), st.floats(0.01, 1), st.floats(0.01, 1))
def test_kosmos_cells_are_those_of_its_authors(x, y, width, height):
    box = Box(x, y, min(x + width, 1), min(y + height, 1))
    codec, corners = make_codec("kosmos-2"), coordinate_to_patch_index(tuple(box), 32)
    text = codec.encode(box)
    assert text == "<object><patch_index_{:04}><patch_index_{:04}></object>".format(*corners)
    assert tuple(codec.decode(text)) == pytest.approx(patch_index_to_coordinate(*corners, 32))


def test_a_language_in_pixels_needs_the_size_of_the_resized_image():
    with pytest.raises(GroundPruneError, match="bbox-2d-pixels needs the width and height"):
        make_codec("bbox-2d-pixels")
