import warnings

import numpy as np
import pytest
from PIL import Image, ImageFile

from groundprune.boxes import PaddedSquareFrame
from groundprune.boxes.images import ImageError, load_image, pad_to_square, square

RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (122, 116, 104)


@pytest.fixture
def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))


def saved(image, path, **settings):
    image.save(path, **settings)
    return path


def load_quietly(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_image(path)


class TestReads:
    def test_rgb_to_the_pixel_and_from_a_string(self, tmp_path, noise):
        path = saved(noise, tmp_path / "a.png")
        assert load_quietly(str(path)).tobytes() == noise.tobytes()

    @pytest.mark.parametrize(
        ("mode", "colour", "suffix", "expected"),
        [
            ("CMYK", (0, 255, 255, 0), "jpg", (254, 0, 0)),
            ("L", 77, "png", (77, 77, 77)),
            ("1", 1, "png", (255, 255, 255)),
            ("LA", (0, 0), "png", (255, 255, 255)),
            ("RGBA", (255, 0, 0, 255), "png", (255, 0, 0)),
            ("RGBA", (255, 0, 0, 0), "png", (255, 255, 255)),
            ("RGBA", (0, 0, 0, 127), "png", (128, 128, 128)),
            ("I;16", 65535, "png", (255, 255, 255)),
            ("I;16", 65535 // 2, "png", (127, 127, 127)),
            ("I;16", 256, "png", (1, 1, 1)),
            ("I;16", 0, "tif", (0, 0, 0)),
            ("I;16", 40000, "tif", (156, 156, 156)),
            ("I", 40000, "tif", (156, 156, 156)),
        ],
    )
    def test_other_modes(self, tmp_path, mode, colour, suffix, expected):
        image = load_quietly(saved(Image.new(mode, (20, 10), colour), tmp_path / f"a.{suffix}"))
        assert (image.mode, image.size) == ("RGB", (20, 10))
        lossy = suffix == "jpg"
        assert np.abs(np.asarray(image, dtype=int) - expected).max() <= lossy

    def test_palette_with_a_transparent_entry(self, tmp_path):
        image = Image.new("P", (4, 2), 0)
        image.putpalette([*RED, *BLUE])
        image.putpixel((3, 1), 1)
        loaded = load_quietly(saved(image, tmp_path / "a.png", transparency=0))
        assert loaded.getpixel((0, 0)) == (255, 255, 255)
        assert loaded.getpixel((3, 1)) == BLUE

    def test_exif_rotation(self, tmp_path):
        image = Image.new("RGB", (40, 20), BLUE)
        image.paste(RED, (0, 0, 20, 20))
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: the left edge belongs to the top
        loaded = load_quietly(saved(image, tmp_path / "a.png", exif=exif))
        assert loaded.size == (20, 40)
        assert loaded.getpixel((10, 5)) == RED
        assert loaded.getpixel((10, 35)) == BLUE
        assert not loaded.getexif()

    def test_broken_exif_does_not_lose_the_picture(self, tmp_path, noise):
        path = saved(noise, tmp_path / "a.png", exif=b"Exif\x00\x00nonsense")
        with pytest.warns(UserWarning, match=r"a\.png: unreadable EXIF"):
            assert load_image(path).size == noise.size

    def test_first_frame_of_several_with_a_warning(self, tmp_path):
        frames = [Image.new("RGB", (8, 6), colour) for colour in (RED, BLUE)]
        path = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        with pytest.warns(UserWarning, match=r"a\.gif: holds 2 frames, the first is used") as caught:
            image = load_image(path)
        assert image.getpixel((0, 0)) == RED
        assert caught[0].filename == __file__

    @pytest.mark.parametrize("size", [(1, 300), (300, 1), (1, 1), (20000, 10)])
    def test_extreme_shapes(self, tmp_path, size):
        image = load_quietly(saved(Image.new("RGB", size, RED), tmp_path / "a.png"))
        assert image.size == size


class TestRefuses:
    @pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp", "tif"])
    @pytest.mark.parametrize("tolerant", [False, True])
    def test_truncated(self, tmp_path, noise, suffix, tolerant, monkeypatch):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
        path = saved(noise, tmp_path / f"a.{suffix}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ImageError) as caught:
            load_image(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert tolerant == ImageFile.LOAD_TRUNCATED_IMAGES

    def test_truncated_is_called_so(self, tmp_path, noise):
        path = saved(noise, tmp_path / "a.jpg")
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(ImageError, match=r"a\.jpg: damaged or truncated"):
            load_image(path)

    def test_text_empty_folder_and_missing(self, tmp_path):
        (tmp_path / "text.png").write_text("not a picture")
        (tmp_path / "empty.png").touch()
        (tmp_path / "folder.png").mkdir()
        for name, reason in [
            ("text", "not an image"),
            ("empty", "the file is empty"),
            ("folder", "is a folder"),
            ("missing", "no such file"),
        ]:
            with pytest.raises(ImageError, match=rf"{name}\.png: {reason}"):
                load_image(tmp_path / f"{name}.png")

    def test_a_file_below_a_file(self, tmp_path):
        (tmp_path / "a").touch()
        with pytest.raises(ImageError, match=r"b\.png"):
            load_image(tmp_path / "a" / "b.png")

    def test_no_pixels(self, tmp_path):
        path = saved(Image.new("RGB", (5, 5)), tmp_path / "a.bmp")
        data = bytearray(path.read_bytes())
        data[18:22] = bytes(4)  # the width
        path.write_bytes(data)
        with pytest.raises(ImageError, match=r"a\.bmp: .*without pixels"):
            load_image(path)

    @pytest.mark.parametrize("limit", [150, 50])  # Pillow itself only warns up to twice the limit
    def test_bomb(self, tmp_path, monkeypatch, limit):
        path = saved(Image.new("RGB", (20, 10)), tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError, match=rf"a\.png: .*the limit of {limit} pixels"):
            load_quietly(path)

    @pytest.mark.parametrize(("mode", "colour"), [("F", 0.5), ("I", 70000), ("I", -1)])
    def test_pixels_without_an_agreed_white(self, tmp_path, mode, colour):
        path = saved(Image.new(mode, (4, 4), colour), tmp_path / "a.tif")
        with pytest.raises(ImageError, match="no agreed white"):
            load_image(path)


class TestSquare:
    def test_padding_is_that_of_llava(self):
        padded = pad_to_square(Image.new("RGB", (10, 7), RED), GREY)
        pixels = np.asarray(padded)
        assert padded.size == (10, 10)
        assert (pixels[1:8] == RED).all()
        assert (pixels[:1] == GREY).all()
        assert (pixels[8:] == GREY).all()

    @pytest.mark.parametrize("size", [(10, 7), (7, 10), (9, 9), (1, 6)])
    def test_padding_and_frame_agree(self, size):
        pixels = np.asarray(pad_to_square(Image.new("RGB", size, RED), GREY))
        rows, cols = np.nonzero((pixels == RED).all(-1))
        window = PaddedSquareFrame(*size).window
        assert (cols.min(), rows.min()) == (-window.x1, -window.y1)
        assert (cols.max() + 1 - cols.min(), rows.max() + 1 - rows.min()) == size

    @pytest.mark.parametrize("resample", [2, 3, 1], ids=["bilinear", "bicubic", "lanczos"])
    @pytest.mark.parametrize("size", [(300, 20), (20, 300), (1000, 3), (3, 1000), (1000, 250), (41, 10), (999, 1)])
    def test_a_thin_image_is_shrunk_to_the_pixels_of_the_padded_one(self, size, resample):
        width, height = size
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
        wanted = np.asarray(pad_to_square(image, GREY).resize((28, 28), resample)).astype(int)
        found = square(image, GREY, 28, resample)
        apart = np.abs(np.asarray(found.resize((28, 28), resample)).astype(int) - wanted).max()
        assert apart <= (0 if width > height else 2)  # of 255

    def test_others_are_padded(self, noise):
        assert square(noise, GREY, 8).tobytes() == pad_to_square(noise, GREY).tobytes()
        thin = noise.crop((0, 0, 40, 5))
        assert square(thin, GREY, 40).tobytes() == pad_to_square(thin, GREY).tobytes()
        assert square(thin, GREY, 39).size == (39, 39)

    def test_an_empty_side_is_refused(self):
        with pytest.raises(ValueError, match="side=0"):
            square(Image.new("RGB", (2, 2)), GREY, 0)
