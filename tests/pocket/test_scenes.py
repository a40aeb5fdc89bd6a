"""Scenes: pure functions of their seed, objects apart, boxes tight."""

import numpy as np
import pytest

from groundprune.pocket.scenes import (
    GAP,
    HELD_OUT_PAIRS,
    IMAGE_SIZE,
    SHAPES,
    SIDE,
    TEST_SEEDS,
    TRAIN_SEEDS,
    VALIDATION_SEEDS,
    make_scene,
    shape_mask,
    tight_box,
)  # fmt: skip


def test_a_scene_is_a_function_of_its_seed():
    first, again, other = make_scene(7), make_scene(7), make_scene(8)
    assert np.array_equal(first.image, again.image)
    assert first.objects == again.objects
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert first.image.dtype == np.uint8


@pytest.mark.parametrize("novel_pair", [False, True])
def test_objects_keep_apart_and_inside(novel_pair):
    for seed in range(150):
        objects = make_scene(seed, novel_pair).objects
        assert 2 <= len(objects) <= 7
        for i, obj in enumerate(objects):
            left, top, right, bottom = obj.box
            assert 0 <= left < right <= IMAGE_SIZE
            assert 0 <= top < bottom <= IMAGE_SIZE
            assert max(right - left, bottom - top) <= SIDE[obj.size][1]
            for other in objects[:i]:
                gaps = (left - other.box[2], other.box[0] - right, top - other.box[3], other.box[1] - bottom)
                assert max(gaps) >= GAP


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("width", "height"), [(17, 20), (23, 23), (40, 35)])
def test_boxes_are_tight_to_what_is_drawn(shape, width, height):
    drawn = shape_mask(shape, width, height) > 0.4
    left, top, right, bottom = tight_box(shape, width, height)
    assert drawn.sum() == drawn[top:bottom, left:right].sum()
    for edge in (drawn[top], drawn[bottom - 1], drawn[:, left], drawn[:, right - 1]):
        assert edge.any()


def test_a_box_holds_the_color_of_its_object():
    scene = make_scene(11)
    for obj in scene.objects:
        x, y = (int(c) for c in obj.center)
        red, green, blue = scene.image[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(0)
        if obj.color in ("red", "yellow"):
            assert red > blue
        if obj.color in ("blue", "cyan", "purple"):
            assert blue > min(red, green)


def test_held_out_pairs_are_only_drawn_when_asked_for():
    for seed in range(300):
        assert not any(o.pair in HELD_OUT_PAIRS for o in make_scene(seed).objects)
        novel = make_scene(seed, novel_pair=True).objects
        assert novel[0].pair in HELD_OUT_PAIRS
        assert not any(o.pair in HELD_OUT_PAIRS for o in novel[1:])


def test_ranges_of_seeds_are_disjoint():
    assert TRAIN_SEEDS.stop <= VALIDATION_SEEDS.start
    assert VALIDATION_SEEDS.stop <= TEST_SEEDS.start
