import time

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageFont

from groundprune.boxes import Box, CroppedFrame, OriginalFrame, PaddedSquareFrame
from groundprune.report.labels import shortened
from groundprune.report.overlay import (
    CAPTION,
    GROUND_TRUTH,
    PRESERVED,
    REASSIGNED,
    UNPRUNED,
    KeptMap,
    draw_overlay,
)

SAND = (200, 180, 160)


def pixels(picture):
    return np.asarray(picture, dtype=int)


def only(rows, cols, *cells):
    grid = np.zeros((rows, cols), dtype=bool)
    for row, col in cells:
        grid[row, col] = True
    return grid


class TestMagnification:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [((144, 144), (576, 576)), ((100, 50), (600, 300)), ((600, 20), (600, 20)), ((1, 1), (576, 576))],
    )
    def test_default(self, size, expected):
        assert draw_overlay(Image.new("RGB", size)).size == expected

    def test_pixels_are_repeated(self):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8))
        assert (pixels(draw_overlay(image, scale=3)) == pixels(image).repeat(3, 0).repeat(3, 1)).all()

    def test_the_image_itself_is_left_alone(self):
        image = Image.new("L", (600, 400), 200)
        draw_overlay(image, [(Box(10, 10, 50, 50), "", UNPRUNED)], KeptMap(only(2, 2), OriginalFrame(600, 400)))
        assert image.getextrema() == (200, 200)


class TestKept:
    def test_dropped_are_darker_kept_unchanged_borders_light(self):
        kept = KeptMap(only(4, 4, (1, 2)), OriginalFrame(600, 600))
        result = pixels(draw_overlay(Image.new("RGB", (600, 600), SAND), kept=kept))
        assert (result[151:299, 301:449] == SAND).all()
        assert (result[150, 300:450] == 255).all()
        assert (result[150:300, 449] == 255).all()
        outside = np.ones((600, 600), dtype=bool)
        outside[150:300, 300:450] = False
        assert (result[outside] < 0.6 * np.array(SAND)).all()

    def test_neighbours_share_one_outline(self):
        kept = KeptMap(only(2, 2, (0, 0), (0, 1)), OriginalFrame(600, 600))
        result = pixels(draw_overlay(Image.new("RGB", (600, 600), SAND), kept=kept))
        assert (result[:299] == SAND).all()
        assert (result[299] == 255).all()

    def test_grid_lies_over_the_padded_square(self):
        # 600 x 300 in a square of 600: of four rows of 150, the outer two are padding.
        image = Image.new("RGB", (600, 300), SAND)
        frame = PaddedSquareFrame(600, 300)
        result = pixels(draw_overlay(image, kept=KeptMap(only(4, 4, (1, 0)), frame)))
        assert (result[:149, :149] == SAND).all()
        assert (result[151:] < 0.6 * np.array(SAND)).all()
        padding = draw_overlay(image, kept=KeptMap(only(4, 4, (0, 0), (3, 3)), frame))
        assert padding.tobytes() == draw_overlay(image, kept=KeptMap(only(4, 4), frame)).tobytes()

    def test_what_a_crop_cuts_off_is_dimmed(self):
        kept = KeptMap(np.ones((2, 2), dtype=bool), CroppedFrame(600, 300, size=300))
        result = pixels(draw_overlay(Image.new("RGB", (600, 300), SAND), kept=kept))
        assert (result[:, :150] < 0.6 * np.array(SAND)).all()
        assert (result[:, 450:] < 0.6 * np.array(SAND)).all()
        assert (result[:, 151:449] == SAND).all()


class TestBoxes:
    @pytest.mark.parametrize("size", [(144, 144), (144, 96), (50, 144)])
    def test_line_runs_along_the_inside_of_the_edge(self, size):
        box = Box(10, 20, 40, 60)
        picture = draw_overlay(Image.new("RGB", size, SAND), [(box, "", PRESERVED)], scale=4)
        result = pixels(picture)
        coloured = (result == ImageColor.getrgb(PRESERVED)).all(-1)
        rows, cols = np.nonzero(coloured)
        assert (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1) == (40, 80, 160, 240)
        assert coloured[80, 40:160].all()
        assert coloured[80:240, 40].all()
        assert (result[79, 40:160] == 255).all(), "the halo of a dark colour is white"
        assert (result[100:220, 60:140] == SAND).all(), "the inside is untouched"

    @pytest.mark.parametrize("box", [Box(5, 5, 5, 20), Box(20, 20, 5, 5), Box(7, 7, 8, 8), Box(0, 0, 100, 60)])
    def test_odd_boxes_do_no_harm(self, box):
        draw_overlay(Image.new("RGB", (100, 60)), [(box, "label", REASSIGNED)])

    def test_labels_stay_inside_and_apart(self):
        box = Box(0, 0, 200, 120)
        boxes = [
            (box, "a", GROUND_TRUTH),
            (box, "b", UNPRUNED),
            (box, "c", PRESERVED),
            (box, "d", REASSIGNED),
        ]
        bare = pixels(draw_overlay(Image.new("RGB", (200, 120), SAND), [(b, "", colour) for b, _, colour in boxes]))
        result = pixels(draw_overlay(Image.new("RGB", (200, 120), SAND), boxes))
        assert result.shape == (360, 600, 3)
        for colour in (GROUND_TRUTH, UNPRUNED, PRESERVED):
            is_colour = (result == ImageColor.getrgb(colour)).all(-1)
            assert is_colour.sum() > 100, "only the label shows: the last box covers the others"
            rows, cols = np.nonzero(is_colour)
            label = is_colour[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
            assert label[0].all(), "no other label covers this one"
            assert label[-1].all()
        assert (result != bare).any()

    @pytest.mark.parametrize("size", [(30, 200), (2000, 6), (1, 80)])
    def test_long_labels_in_narrow_pictures(self, size):
        box = Box(0, 0, *size)
        result = draw_overlay(Image.new("RGB", size), [(box, "the mug on the left of the laptop", UNPRUNED)])
        assert result.size[0] % size[0] == 0


class TestLongLabels:
    def test_ten_thousand_characters_take_no_time(self):
        start = time.process_time()
        for text in ("the mug " * 1250, "x" * 10_000, "first line\nand another " * 400):
            draw_overlay(Image.new("RGB", (144, 144)), [(Box(10, 10, 90, 90), text, UNPRUNED)])
        assert time.process_time() - start < 2

    @pytest.mark.parametrize("room", [0, 5, 40, 101.5, 400, 10_000])
    def test_as_much_as_fits(self, room):
        font, text = ImageFont.load_default(15), "the mug on the left of the laptop, iIlWmM" * 3
        fitting = [n for n in range(len(text)) if font.getlength(text[:n] + "…") <= room]
        wanted = text if font.getlength(text) <= room else text[: max(fitting, default=0)].rstrip() + "…"
        assert shortened(text, font, room) == wanted


class TestCaption:
    def test_a_strip_below_the_picture_says_what_bright_means(self):
        image = Image.new("RGB", (144, 144), SAND)
        plain, told = draw_overlay(image), draw_overlay(image, caption=CAPTION)
        assert told.width == plain.width
        assert 8 < told.height - plain.height < 40
        assert told.crop((0, 0, *plain.size)).tobytes() == plain.tobytes()
        strip = pixels(told)[plain.height :]
        assert strip.min() < 64
        assert (strip[:, -1] == 255).all()

    def test_a_picture_too_narrow_for_it_has_none(self):
        assert draw_overlay(Image.new("RGB", (1, 90)), caption=CAPTION).size == (7, 630)


class TestRefuses:
    def test_a_frame_of_another_image(self):
        kept = KeptMap(only(2, 2), PaddedSquareFrame(30, 20))
        with pytest.raises(ValueError, match="30 x 20 pixels, not 20 x 30"):
            draw_overlay(Image.new("RGB", (20, 30)), kept=kept)

    @pytest.mark.parametrize("grid", [np.ones(4, dtype=bool), np.ones((2, 2)), np.ones((0, 2), dtype=bool)])
    def test_a_grid_that_is_none(self, grid):
        with pytest.raises(ValueError, match=r"Bool\[rows, cols\]"):
            KeptMap(grid, OriginalFrame(4, 4))

    def test_scale_below_one(self):
        with pytest.raises(ValueError, match="scale=0"):
            draw_overlay(Image.new("RGB", (20, 30)), scale=0)
