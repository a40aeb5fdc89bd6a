"""A picture in the terminal: only where it is one that shows them, and then the picture that was written."""

import base64
import io
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from groundprune.cli.pictures import escape, protocol, show

KITTY, ITERM = {"TERM": "xterm-kitty"}, {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def inside(monkeypatch):
    """In a terminal that sets these variables and no others."""

    def set_to(variables):
        for name in ("TERM", "TERM_PROGRAM", "KITTY_WINDOW_ID", "TMUX"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


def pictures(text):
    """The pictures that a terminal would draw of what was written to it."""
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    data = ["".join(part for _, part in parts)] if parts else []
    data += re.findall(r"\x1b\]1337;File=[^:]*:([^\x07]*)\x07", text)
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in data]


@pytest.mark.parametrize(
    ("variables", "known"),
    [
        (KITTY, "kitty"), ({"TERM": "xterm", "KITTY_WINDOW_ID": "1"}, "kitty"), (ITERM, "iterm"),
        ({"TERM": "xterm", "TERM_PROGRAM": "WezTerm"}, "iterm"), ({"TERM": "xterm-256color"}, None), ({}, None),
        ({"TERM": "xterm", "TERM_PROGRAM": "Apple_Terminal"}, None), ({**KITTY, "TMUX": "/tmp/x"}, None),
        ({**ITERM, "TERM": "screen-256color"}, None), ({**ITERM, "TERM": "dumb"}, None),
    ],
)  # fmt: skip
def test_which_terminals_show_pictures(variables, known):
    assert protocol(variables) == known


def test_kitty_takes_it_in_parts():
    png = bytes(range(256)) * 40
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", escape(png, "kitty"))
    assert base64.b64decode("".join(part for _, part in parts)) == png
    assert all(len(part) <= 4096 and (len(part) % 4 == 0) for _, part in parts)
    assert [re.search(r"m=(\d)", keys)[1] for keys, _ in parts] == ["1"] * (len(parts) - 1) + ["0"]
    assert parts[0][0].startswith("a=T,f=100")


@pytest.mark.parametrize("variables", [KITTY, ITERM])
def test_the_picture_is_the_files(variables, inside, tmp_path):
    inside(variables)
    Image.new("RGB", (1600, 400), "teal").save(tmp_path / "a.jpg")
    terminal, pipe = Terminal(), io.StringIO()
    show(tmp_path / "a.jpg", terminal)
    show(tmp_path / "a.jpg", pipe)
    (picture,) = pictures(terminal.getvalue())
    assert (picture.format, picture.size) == ("PNG", (800, 200))
    assert pipe.getvalue() == ""
    show(tmp_path / "missing.jpg", terminal)
    assert len(pictures(terminal.getvalue())) == 1


@pytest.mark.usefixtures("beside_a_scene")
class TestGround:
    WORDS = "ground", "scene.png", "the small purple object", "--pruner", "cls-visual"

    @pytest.mark.parametrize("more", [(), ("--json",)])
    def test_the_overlay_is_named_and_shown(self, said, inside, monkeypatch, more):
        inside(KITTY)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        code, out, _ = said(*self.WORDS, *more)
        assert code == 0
        assert Path("scene.ground.png").is_file()
        assert "scene.ground.png" in out
        assert [picture.size for picture in pictures(out)] == ([] if more else [Image.open("scene.ground.png").size])

    def test_a_pipe_gets_words_alone(self, said, inside):
        inside(KITTY)
        _, out, _ = said(*self.WORDS)
        assert out.endswith("overlay  scene.ground.png\n")
        assert "\x1b" not in out
