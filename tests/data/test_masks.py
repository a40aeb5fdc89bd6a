"""Masks: what the benchmarks' files hold, as pixels; overlaps; and polygons as models say them."""

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from groundprune.boxes import make_frame
from groundprune.boxes.polygons import PolygonCodec, area, to_pixels
from groundprune.data.masks import decoded, filled, overlap
from groundprune.errors import GroundPruneError

# Annotation 1768 of COCO val2017, a dog in an image of 640 x 529 pixels; the file says that its area is 702.10575.
WIDTH, HEIGHT, AREA = 640, 529, 702.1057499999998
DOG = [
    510.66, 423.01, 511.72, 420.03, 510.45, 416.0, 510.34, 413.02, 510.77, 410.26, 510.77, 407.5, 510.34, 405.16,
    511.51, 402.83, 511.41, 400.49, 510.24, 398.16, 509.39, 397.31, 504.61, 399.22, 502.17, 399.64, 500.89, 401.66,
    500.47, 402.08, 499.09, 401.87, 495.79, 401.98, 490.59, 401.77, 488.79, 401.77, 485.39, 398.58, 483.9, 397.31,
    481.56, 396.35, 478.48, 395.93, 476.68, 396.03, 475.4, 396.77, 473.92, 398.79, 473.28, 399.96, 473.49, 401.87,
    474.56, 403.47, 473.07, 405.59, 473.39, 407.71, 476.68, 409.41, 479.23, 409.73, 481.56, 410.69, 480.4, 411.85,
    481.35, 414.93, 479.86, 418.65, 477.32, 420.03, 476.04, 422.58, 479.02, 422.58, 480.29, 423.01, 483.79, 419.93,
    486.66, 416.21, 490.06, 415.57, 492.18, 416.85, 491.65, 420.24, 492.82, 422.9, 493.56, 424.39, 496.43, 424.6,
    498.02, 423.01, 498.13, 421.31, 497.07, 420.03, 497.07, 415.15, 496.33, 414.51, 501.1, 411.96, 502.06, 411.32,
    503.02, 415.04, 503.33, 418.12, 501.1, 420.24, 498.98, 421.63, 500.47, 424.39, 505.03, 423.32, 506.2, 421.31,
    507.69, 419.5, 506.31, 423.32, 510.03, 423.01, 510.45, 423.01,
]  # fmt: skip
POINTS = list(zip(DOG[::2], DOG[1::2], strict=True))


def moved(by: float) -> list[float]:
    return [value + by for value in DOG]


def rle(polygon: list[float]) -> dict:
    return coco.merge(coco.frPyObjects([polygon], HEIGHT, WIDTH))


def test_the_area_of_a_real_polygon_is_that_of_its_file():
    assert math.isclose(area(POINTS), AREA, rel_tol=1e-9)


def test_every_form_of_a_mask_is_the_same_pixels():
    counted = rle(DOG)
    text = {**counted, "counts": counted["counts"].decode()}
    pixels = decoded([DOG], WIDTH, HEIGHT)
    flat = pixels.T.ravel()  # uncompressed run lengths go down the columns, zeros first
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    runs = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    loose = {"size": [HEIGHT, WIDTH], "counts": runs}
    for mask in ([DOG], counted, text, json.loads(json.dumps(text)), loose, pixels, pixels.astype(np.uint8)):
        assert np.array_equal(decoded(mask, WIDTH, HEIGHT), pixels)
    assert pixels.sum() == coco.area(counted)
    two = decoded([DOG, moved(-100.0)], WIDTH, HEIGHT)
    assert two.sum() == coco.area(rle(DOG)) + coco.area(rle(moved(-100.0)))


@pytest.mark.parametrize("by", [0.0, 1.0, 3.5, 12.0, 60.0])
def test_overlaps_are_those_of_pycocotools(by):
    both, either = overlap(decoded([DOG], WIDTH, HEIGHT), decoded([moved(by)], WIDTH, HEIGHT))
    (expected,) = coco.iou([rle(DOG)], [rle(moved(by))], [0])[0]
    assert math.isclose(both / either, expected, rel_tol=1e-12)
    assert (both / either == 1) == (by == 0)


@pytest.mark.parametrize(
    ("codec", "least"),
    [
        (PolygonCodec(decimals=3), 0.95),  # steps of 0.6 pixels, the dog being 38 x 28
        (PolygonCodec(decimals=4), 0.99),
        (PolygonCodec((1000, 1000), 0), 0.95),
        (PolygonCodec((WIDTH, WIDTH), 2), 1.0),
    ],
)
def test_the_codec_brings_a_real_mask_back(codec, least):
    frame = make_frame("padded", WIDTH, HEIGHT)
    left, top, *_ = frame.window
    unit = [((x - left) / frame.window.width, (y - top) / frame.window.height) for x, y in POINTS]
    said = codec.encode(unit)
    back = codec.decode(said)
    assert back is not None
    both, either = overlap(filled(to_pixels(back, frame), WIDTH, HEIGHT), decoded([DOG], WIDTH, HEIGHT))
    assert both / either >= least
    assert codec.encode(back) == said


@pytest.mark.parametrize(("grid", "decimals"), [((1000, 1000), 0), ((640, 529), 0), ((640, 529), 2)])
def test_other_scales(grid, decimals):
    codec, points = PolygonCodec(grid, decimals), [(0.1, 0.2), (0.5, 0.2), (0.3, 0.9)]
    back = codec.decode(codec.encode(points))
    assert back is not None
    off = np.abs(np.array(points) - np.array(back))
    assert (off <= 0.5 / np.array(grid)).all()


@pytest.mark.parametrize(
    "text",
    [
        "[0.1, 0.2, 0.5, 0.2, 0.3, 0.9]",
        "the dog [[0.1, 0.2], [0.5, 0.2], [0.3, 0.9]] is here [0.5, 0.5, 0.6, 0.6, 0.7, 0.7]",
        "[(0.1,0.2),(0.5,.2),(0.3,0.9)]",
        "[0.1, 0.2, 0.5, 0.2, 0.3, 0.9",
        '{"polygon": [0.1, 0.2, 0.5, 0.2, 0.3, 0.9]}',
    ],
)
def test_ways_to_write_a_polygon(text):
    assert PolygonCodec().decode(text) == [(0.1, 0.2), (0.5, 0.2), (0.3, 0.9)]


@pytest.mark.parametrize(
    "text",
    ["", "no", "[]", "[0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2, 0.5, 0.2, 0.3]", "[0.1, 0.2, 0.5, 0.2, 0.3, 1.9]",
     "[0.1, 0.2, 0.5, 0.2, -0.3, 0.9]", "[1e400, 0, 0, 1, 1, 1]", "[" * 5000,
     "[0.1, 0.2] [0.1, 0.2, 0.5, 0.2, 0.3, 0.9]"],
)  # fmt: skip
def test_what_is_no_polygon(text):
    assert PolygonCodec().decode(text) is None


@given(st.text(alphabet="[](),.0123456789eE+- \n;{}ax", max_size=80))
def test_whatever_a_model_says_is_read_or_refused(text):
    found = PolygonCodec().decode(text)
    assert found is None or (len(found) >= 3 and all(0 <= v <= 1 for point in found for v in point))


def test_a_damaged_answer_never_reads_as_another_scale():
    letters = random.Random(0)
    said = PolygonCodec().encode([(x / WIDTH, y / HEIGHT) for x, y in POINTS])
    for _ in range(300):
        at = letters.randrange(len(said))
        found = PolygonCodec().decode(said[:at] + letters.choice("[],. 0x") + said[at + 1 :])
        assert found is None or all(0 <= v <= 1 for point in found for v in point)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ([[1.0, 2.0, 3.0]], "at least three points"),
        ([], "polygons, run lengths or an array"),
        ("polygon", "polygons, run lengths or an array"),
        ({"size": [3, 3], "counts": "x"}, "are of no image of 529 x 640"),
        ({"counts": "x"}, "cannot be read"),
        ([[1.0, 2.0, 3.0, "a", 5.0, 6.0]], "cannot be read"),
        (np.zeros((3, 3)), "is of no image of 640 x 529"),
    ],
)
def test_what_is_no_mask_is_named(mask, said):
    with pytest.raises(GroundPruneError, match=said):
        decoded(mask, WIDTH, HEIGHT)
