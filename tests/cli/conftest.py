import pytest
from PIL import Image

from groundprune.cli import main
from groundprune.pocket.scenes import TEST_SEEDS, make_scene


@pytest.fixture
def beside_a_scene(tmp_path, monkeypatch):
    """Commands run in a folder of their own, which holds scene.png."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_scene(TEST_SEEDS[7]).image).save("scene.png")


@pytest.fixture
def beside_a_photo(tmp_path, monkeypatch):
    """Commands run in a folder of their own, which holds photo.png."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 40), "grey").save("photo.png")


@pytest.fixture
def said(capsys):
    """Run a command line; returns its exit code and what it wrote to stdout, and to stderr."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run
