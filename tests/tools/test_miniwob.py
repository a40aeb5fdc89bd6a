"""The set of MiniWoB++'s pages: which elements are asked for; and, in Chromium, that boxes lie where elements are."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from groundprune.data import open_data
from groundprune.data.sources import as_task
from tools import miniwob
from tools.browser import there


def element(role="button", shown="", told="", box=(10, 10, 60, 30)):
    return {"role": role, "shown": shown, "told": told, "box": list(box)}


def lines(*elements, seed=0):
    return miniwob.chosen(list(elements), "page", "images/page.png", seed)


def test_an_element_is_called_by_its_words_or_what_it_is():
    found = lines(
        element(shown="Submit"),
        element("checkbox", told="brave", box=(10, 40, 20, 50)),
        element("text field", box=(10, 60, 150, 80)),
    )
    assert [(r["expression"], r["type"]) for r in found] == [
        ("the button 'Submit'", "text"), ("the checkbox 'brave'", "icon"), ("the text field", "icon"),
    ]  # fmt: skip
    assert found[0]["bbox"] == [20, 20, 120, 60]  # two device pixels a CSS pixel


def test_what_is_not_alone_in_its_name_or_not_wholly_there_is_not_asked_for():
    assert lines(element(shown="OK"), element(shown="OK", box=(10, 40, 60, 60))) == []
    assert len(lines(element(shown="OK"), element("link", shown="OK", box=(10, 40, 60, 60)))) == 2
    for box in [(-1, 10, 60, 30), (10, 10, 161, 30), (10, 190, 60, 211), (10, 10, 60, 13)]:
        assert lines(element(shown="OK", box=box)) == []
    assert lines(element("element")) == []  # nothing to call it by
    assert lines(element(shown="x" * 41)) == []


def test_a_seed_says_which_of_many():
    many = [element("checkbox", told=f"w{i}", box=(10, 5 * i, 20, 5 * i + 5)) for i in range(30)]
    some = lines(*many)
    assert len(some) == miniwob.PER_PAGE
    assert lines(*many) == some
    assert lines(*many, seed=1) != some
    assert len({r["id"] for r in some}) == len(some)


def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert miniwob.main(["--out", str(tmp_path)]) == 2
    assert "pip install --no-deps miniwob==1.1.0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.browser
@pytest.mark.skipif(not there() or importlib.util.find_spec("miniwob") is None, reason="no Chromium or no miniwob")
def test_pages_are_drawn_by_the_seed_and_boxes_lie_on_their_elements(tmp_path):
    for folder in ("a", "b"):
        assert miniwob.main(["--out", str(tmp_path / folder), "--pages", "10"]) == 0
    first, second = ((tmp_path / folder / "annotations.jsonl").read_text() for folder in ("a", "b"))
    assert first == second
    assert miniwob.main(["--out", str(tmp_path / "c"), "--pages", "10", "--seed", "1"]) == 0
    assert (tmp_path / "c" / "annotations.jsonl").read_text() != first
    about = json.loads((tmp_path / "a" / "about.json").read_text())
    samples = as_task(open_data(str(tmp_path / "a" / "annotations.jsonl")), "point").samples
    assert (about["pages"], about["requests"], about["miniwob"]) == (10, len(samples), "1.1.0")
    assert len(samples) > 10
    assert {s.type for s in samples} == {"text", "icon"}
    drawn = 0
    for sample in samples:
        assert sample.impossible(*sample.image.size) is None
        assert sample.image.size == (miniwob.WIDTH * miniwob.SCALE, miniwob.HEIGHT * miniwob.SCALE)
        left, top, right, bottom = (round(edge) for edge in sample.box)
        drawn += np.asarray(sample.image)[top:bottom, left:right].std() > 1  # a frame, letters: no empty ground
    assert drawn == len(samples)


@pytest.mark.browser
@pytest.mark.skipif(not there() or importlib.util.find_spec("miniwob") is None, reason="no Chromium or no miniwob")
def test_a_box_is_where_its_colour_is(tmp_path, monkeypatch):
    """A page with one coloured button at a known place, beside one that is covered and one that is hidden."""
    page = tmp_path / "page.html"
    page.write_text("""<body style="margin:0"><script>
        Math.seedrandom = () => 0; core = {cover_div: null};
        </script><style>button { position: absolute; border: 0; width: 50px; height: 20px }</style>
        <button style="left:30px; top:40px; background:#ff0000" aria-label="stop"></button>
        <button style="left:30px; top:90px">under</button>
        <div style="position:absolute; left:0; top:80px; width:160px; height:40px; background:white"></div>
        <button style="visibility:hidden; top:150px">hidden</button>""")
    monkeypatch.setattr(miniwob, "_pages", lambda: [page])
    assert miniwob.main(["--out", str(tmp_path / "set")]) == 0
    (sample,) = open_data(str(tmp_path / "set" / "annotations.jsonl")).samples
    assert (sample.text, sample.type) == ("the button 'stop'", "icon")
    red = (np.asarray(Image.open(tmp_path / "set" / "images" / "page.png").convert("RGB")) == (255, 0, 0)).all(-1)
    rows, columns = np.where(red)
    assert list(sample.box) == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [60, 80, 160, 120]
