import importlib
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageStat

import groundprune.checkpoints.load
from groundprune.pocket.scenes import TEST_SEEDS, make_scene
from support.own_pruner import OWN_PRUNER

pytestmark = pytest.mark.usefixtures("beside_a_scene")


@pytest.fixture
def ground(said):
    """`ground --json`: its exit code, checked to fit its object, and the object."""

    def run(*arguments):
        code, out, _ = said("ground", *arguments, "--json")
        result = json.loads(out)
        assert code == (0 if result["box"] else 1)
        return result

    return run


class TestGround:
    def test_json(self, ground):
        result = ground("scene.png", "the small purple object", "--pruner", "cls-visual")
        assert set(result) == {
            "expression", "image", "size", "answer", "box", "visual_tokens", "settings", "overlay",
        }  # fmt: skip
        assert result["size"] == [144, 144]
        assert result["visual_tokens"] == {"kept": 72, "total": 144}
        assert result["overlay"] == "scene.ground.png"
        assert result["settings"] == {
            "model": "pocket", "pruner": "cls-visual", "keep": 0.5, "tokens": None, "positions": "preserved",
            "seed": None, "text_tower": None, "options": {},
        }  # fmt: skip
        if result["box"]:
            left, top, right, bottom = result["box"]
            assert 0 <= left < right <= 144
            assert 0 <= top < bottom <= 144

    def test_unpruned_in_words(self, said):
        _, out, err = said("ground", "scene.png", "the small purple object", "--out", "a.jpg")
        assert re.search(r"^(box      \d+\.\d|no box  the model answered: )", out)
        assert "tokens   144 of 144 kept (unpruned)\noverlay  a.jpg\n" in out
        assert err == ""

    def test_the_box_or_its_absence(self, said, monkeypatch):
        answers = ["[0.25, 0.5, 0.75, 1.00]", "a star", ""]
        monkeypatch.setattr("transformers.LlavaProcessor.decode", lambda *_, **__: answers[0], raising=True)
        assert said("ground", "scene.png", "the star")[:2] == (
            0,
            "box      36.0, 72.0, 108.0, 144.0  (x1, y1, x2, y2 in pixels of 144 x 144)\n"
            "tokens   144 of 144 kept (unpruned)\noverlay  scene.ground.png\n",
        )
        for answers[0] in ("a star", "[0.5, 0.5, 0.5, 0.9]", "[5, 5, 9, 9]"):
            code, out, _ = said("ground", "scene.png", "the star")
            assert (code, out.splitlines()[0]) == (1, f"no box  the model answered: {answers[0]}")

    @pytest.mark.parametrize(
        ("options", "kept"),
        [
            (["--pruner", "random", "--tokens", "10", "--seed", "3"], 10),
            (["--pruner", "spatial", "--keep", "1/3", "--positions", "reassigned"], 48),
            (["--pruner", "text-visual", "--keep", "0.25"], 36),
            (["--pruner", "spatial", "--keep", "1"], 144),
            (["--pruner", "spatial", "--tokens", "1000", "--positions", "official"], 144),
        ],
    )
    def test_budgets(self, ground, options, kept):
        assert ground("scene.png", "the star", *options)["visual_tokens"]["kept"] == kept

    def test_the_overlay_shows_what_was_kept(self, ground):
        ground("scene.png", "the star", "--pruner", "spatial", "--tokens", "1", "--out", "few.png")
        ground("scene.png", "the star", "--out", "all.png")
        with Image.open("few.png") as few, Image.open("all.png") as every:
            assert every.size == (576, 576)
            assert few.width == 576
            assert 576 + 8 < few.height < 576 + 40  # what bright and dim mean stands below
            few = few.crop((0, 0, 576, 576))
            assert ImageStat.Stat(few).sum[0] < 0.6 * ImageStat.Stat(every).sum[0]

    def test_unknown_words_are_named(self, said):
        _, out, err = said("ground", "scene.png", "the mug, left of the Laptop", "--json")
        json.loads(out)
        assert err == "groundprune: warning: the model does not know: mug, Laptop\n"

    def test_own_pruner(self, ground, tmp_path):
        (tmp_path / "mine.py").write_text(OWN_PRUNER)
        result = ground("scene.png", "the star", "--pruner", "mine.py:FeatureNorm", "--keep", "0.25")
        assert result["visual_tokens"]["kept"] == 36
        assert result["settings"]["pruner"] == "FeatureNorm"

    def test_own_pruner_has_one_name(self, said, tmp_path):
        """Its class: the name under which results hold it, which may not run the file again."""
        (tmp_path / "named.py").write_text(OWN_PRUNER)
        own = "--pruner", "named.py:FeatureNorm", "--keep", "0.5"
        _, told, _ = said("ground", "scene.png", "the star", *own)
        _, proven, _ = said("verify", "--family", "llava", *own)
        _, compared, _ = said("compare", "--scenes", 1, "--positions", "preserved", *own)
        for out in (told, proven, compared):
            assert "FeatureNorm" in out
            assert "feature-norm" not in out
        assert "1 expression and 1 question" in compared

    def test_dtype(self, said, monkeypatch):
        taken = []
        load = groundprune.checkpoints.load.load
        noted = lambda source, **given: (taken.append(given["dtype"]), load(source, **given))[1]  # noqa: E731
        for place in ("checkpoints.load", "evaluation.driver"):
            monkeypatch.setattr(importlib.import_module(f"groundprune.{place}"), "load", noted)
        run = "--dtype", "bfloat16"
        small = "--pruner", "spatial", "--keep", "0.5", "--positions", "preserved"
        assert said("ground", "scene.png", "the star", *run)[0] in (0, 1)
        assert said("ask", "scene.png", "how many stars", *run)[0] == 0
        assert said("compare", "--scenes", 1, *small, *run)[0] == 0
        code, _, _ = said("evaluate", "--limit", 1, *small, *run, "--out", "runs")
        assert code == 0
        assert taken == ["bfloat16"] * 4  # the report needs no model
        assert json.loads((Path("runs") / "summary.json").read_text())["run"]["dtype"] == "torch.bfloat16"
        code, _, err = said("ask", "scene.png", "how many stars", "--dtype", "half")
        assert (code, err.count("unknown dtype 'half'")) == (2, 1)

    def test_an_expression_that_no_model_reads(self, said):
        code, _, err = said("ground", "scene.png", "the star " * 1200)
        assert code == 2
        assert re.search(r"the prompt has \d+ tokens, the image's included; this model reads 1024$", err)
        assert said("ground", "scene.png", "star" * 2500)[0] in (0, 1)


class TestImages:
    """Every odd image gives a picture of its own shape, and a box inside of it if any."""

    @pytest.fixture
    def grounded(self, ground):
        def run(path, size):
            result = ground(path, "the red circle", "--pruner", "cls-visual", "--out", "overlay.png")
            assert result["size"] == list(size)
            if result["box"]:
                left, top, right, bottom = result["box"]
                assert 0 <= left < right <= size[0]
                assert 0 <= top < bottom <= size[1]
            with Image.open("overlay.png") as overlay:
                scale, rest = divmod(overlay.width, size[0])
                assert rest == 0
                assert 0 <= overlay.height - scale * size[1] < 40  # the strip that says what bright means

        return run

    @pytest.mark.parametrize(
        ("mode", "name"), [("CMYK", "a.jpg"), ("I;16", "a.png"), ("RGBA", "a.webp"), ("1", "a.bmp")]
    )
    def test_modes(self, grounded, mode, name):
        Image.new(mode, (80, 50)).save(name)
        grounded(name, (80, 50))

    def test_rotated_by_exif(self, grounded):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (80, 50), "teal").save("a.jpg", exif=exif)
        grounded("a.jpg", (50, 80))

    def test_animated(self, said):
        frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
        frames[0].save("a.gif", save_all=True, append_images=frames[1:])
        _, out, err = said("ask", "a.gif", "how many circles", "--json")
        assert json.loads(out)["size"] == [40, 30]
        assert err == "groundprune: warning: a.gif: holds 2 frames, the first is used\n"

    def test_one_pixel_wide(self, grounded):
        Image.new("RGB", (1, 90), "teal").save("a.png")
        grounded("a.png", (1, 90))

    def test_very_wide(self, grounded):
        Image.new("RGB", (20_000, 8), "teal").save("a.png")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grounded("a.png", (20_000, 8))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        unit = 1 if sys.platform == "darwin" else 1024
        # Squared at its own size it would take 1.2 GB, and several times that on the way to the tower.
        assert (after - before) * unit < 400e6


class TestAsk:
    def test_the_answer_and_nothing_else(self, said, tmp_path):
        code, out, err = said("ask", "scene.png", "how many red objects?")
        assert (code, err) == (0, "")
        assert out.count("\n") == 1
        assert [p.name for p in tmp_path.iterdir()] == ["scene.png"]

    def test_json_and_overlay(self, said, tmp_path):
        _, out, _ = said("ask", "scene.png", "how many red objects", "--pruner", "random", "--out", "o.png", "--json")
        result = json.loads(out)
        assert result["question"] == "how many red objects"
        assert (result["box"], result["overlay"], result["settings"]["seed"]) == (None, "o.png", 0)
        assert (tmp_path / "o.png").is_file()


class TestScene:
    def test_deterministic(self, said, tmp_path):
        first = said("scene", "a.png", "--seed", "7"), (tmp_path / "a.png").read_bytes()
        assert (said("scene", "a.png", "--seed", "7"), (tmp_path / "a.png").read_bytes()) == first
        assert (said("scene", "a.png", "--seed", "8"), (tmp_path / "a.png").read_bytes()) != first

    @pytest.mark.parametrize("seed", range(5))
    def test_truth(self, said, seed):
        _, out, _ = said("scene", "a.png", "--seed", seed, "--json")
        result, boxes = json.loads(out), {o.box for o in make_scene(TEST_SEEDS[seed]).objects}
        assert len(result["expressions"]) >= 2
        assert len(result["questions"]) == 4
        assert all(tuple(e["box"]) in boxes for e in result["expressions"])


def run_python(code, **settings):
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *code], capture_output=True, text=True, env=environment, **settings)


def test_help_needs_no_torch():
    # `groundprune` is a bare package here: what its own __init__ imports is not the question.
    check = (
        "import sys, types; package = types.ModuleType('groundprune'); package.__path__ = [sys.argv.pop()]\n"
        "sys.modules['groundprune'] = package\n"
        "from groundprune.cli import main; assert main(['ground', '--help']) == 0\n"
        "assert not {'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)"
    )
    folder = os.path.dirname(sys.modules["groundprune"].__file__)
    assert run_python(["-c", check, folder]).returncode == 0


def test_as_a_module(tmp_path):
    done = run_python(["-m", "groundprune", "ask", "scene.png", "how many zebras", "--json"], cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["question"] == "how many zebras"
    assert done.stderr == "groundprune: warning: the model does not know: zebras\n"
