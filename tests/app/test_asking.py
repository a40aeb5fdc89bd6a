import struct
import threading
import zlib

import pytest
from PIL import Image

import groundprune as gp
from groundprune.answers import answer
from groundprune.app.asking import ANSWERS, PICTURES, Bench
from groundprune.app.pictures import LONGEST_SIDE, open_picture
from groundprune.app.rendering import panels
from groundprune.boxes import Box
from groundprune.data.scenes import scene
from groundprune.errors import GroundPruneError
from groundprune.exactness.tiny import tiny_model
from support.checkpoints import save_tiny


def png(width, height):
    """A small file that says it is large."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def first_request(seed):
    return next(iter(scene(seed).expressions.items()))


@pytest.fixture
def tower_calls(pocket):
    calls = []
    handle = pocket[0].model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


def test_the_tower_runs_once_per_image(bench, tower_calls):
    for seed in (7, 8):
        text, _ = first_request(seed)
        for pruner, keep, policy in (
            ("cls-visual", 0.5, "reassigned"),
            ("fastv", 0.3, "stretched"),
            ("tome", 1, "shifted:8"),
        ):
            bench.ask(f"scene:{seed}", text, "rec", pruner, keep, policy)
        bench.ask(f"scene:{seed}", next(iter(scene(seed).questions)), "vqa", "trim", 0.2, "official")
    assert len(tower_calls) == 2


@pytest.mark.parametrize("pruner", ["cls-visual", "fastv", "trim", "tome"])
def test_answers_are_those_of_the_command_line(bench, pocket, pruner):
    """Though the image is encoded once for all pruners, and for another text."""
    bench.ask("scene:7", "the green circle", "rec", "random", 0.5, "reassigned")
    text, truth = first_request(7)
    reply = bench.ask("scene:7", text, "rec", pruner, 0.3, "reassigned")
    assert [asked.name for asked in reply.asked] == ["unpruned", "preserved", "reassigned"]
    for asked in reply.asked:
        made = None if asked.name == "unpruned" else gp.make_pruner(pruner, 0.3)
        policy = "preserved" if made is None else asked.name
        said = answer(*pocket, scene(7).image, text, "rec", made, policy)
        assert asked.said.text == said.text
        assert asked.said.kept_tokens == said.kept_tokens
        assert asked.truth == truth
        if said.kept is not None:
            assert (asked.scored.kept[0] == said.kept).all()


def test_truth_is_known_of_scenes_alone(bench, tmp_path):
    text, truth = first_request(7)
    asked = bench.ask("scene:7", text, "rec", "cls-visual", 0.5, "reassigned").asked
    assert isinstance(truth, Box)
    assert asked[0].right
    assert asked[0].iou > 0.5 > asked[2].iou  # what this scene shows
    assert not asked[2].right
    scene(7).image.save(tmp_path / "same.png")
    unknown = bench.ask(str(tmp_path / "same.png"), text, "rec", "cls-visual", 0.5, "reassigned").asked
    assert [a.said.text for a in unknown] == [a.said.text for a in asked]
    assert {(a.right, a.iou) for a in unknown} == {(None, None)}
    question, words = next(iter(scene(7).questions.items()))
    right = bench.ask("scene:7", question, "vqa", "cls-visual", 1, "reassigned").asked[0]
    assert right.right == (right.said.text == words)


def test_scores_are_those_that_the_pruner_chose_by(bench):
    scored = bench.ask("scene:7", first_request(7)[0], "rec", "cls-visual", 0.25, "reassigned").asked[1].scored
    assert scored.kept_tokens == 36
    assert scored.scores[0][scored.kept[0]].min() >= scored.scores[0][~scored.kept[0]].max()


def test_what_is_remembered_is_bounded(bench):
    for seed in range(PICTURES + 3):
        bench.picture(f"scene:{seed}")
    assert list(bench._pictures) == [f"scene:{seed}" for seed in range(3, PICTURES + 3)]
    picture = bench.picture("scene:7")
    picture.unpruned.update({("rec", f"request {n}"): None for n in range(ANSWERS)})
    bench.ask("scene:7", "the red circle", "rec", "random", 0.1, "reassigned")
    assert list(picture.unpruned) == [
        *(("rec", f"request {n}") for n in range(1, ANSWERS)),
        ("rec", "the red circle"),
    ]


def test_threads_take_turns(bench):
    requests = [(seed, *first_request(seed)) for seed in (1, 2, 3)]
    found = {}

    def ask(seed, text):
        found[seed] = [a.said.text for a in bench.ask(f"scene:{seed}", text, "rec", "fastv", 0.5, "reassigned").asked]

    threads = [threading.Thread(target=ask, args=(seed, text)) for seed, text, _ in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = Bench(bench.model, bench.processor, "alone")
    for seed, text, _ in requests:
        reply = alone.ask(f"scene:{seed}", text, "rec", "fastv", 0.5, "reassigned")
        assert found[seed] == [a.said.text for a in reply.asked]


def test_unknown_words_are_noted(bench):
    assert bench.ask("scene:7", "the zebra", "rec", "random", 0.5, "reassigned").notes == [
        "the model does not know: zebra"
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": " "}, "the text is empty"),
        ({"text": "a " * 300}, "600 characters"),
        ({"text": "an <image>"}, "stands for an image"),
        ({"source": "scene:-1"}, "seed must be 0 to"),
        ({"pruner": "no-such"}, "unknown pruner 'no-such'"),
        ({"pruner": "tests/support/own_pruner.py:Own"}, "unknown pruner"),
        ({"keep": "7"}, "keep"),
        ({"policy": "nonsense"}, "unknown position policy 'nonsense'"),
        ({"kind": "poem"}, "unknown kind 'poem'"),
    ],
)
def test_wrong_input_is_refused_in_one_line_and_the_next_is_answered(bench, change, said):
    good = {
        "source": "scene:7",
        "text": "the red circle",
        "kind": "rec",
        "pruner": "random",
        "keep": "0.5",
        "policy": "reassigned",
    }
    with pytest.raises(GroundPruneError, match=said) as refused:
        bench.ask(**{**good, **change})
    assert "\n" not in str(refused.value)
    assert bench.ask(**good).asked[0].said.text


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"no image at all", "not an image"),
            (png(20_000, 10), "damaged"),
            (png(20_000, 20_000), "larger than the limit"),
        ],
        ids=["words", "cut", "bomb"],
    )
    def test_what_is_refused(self, tmp_path, content, said):
        (tmp_path / "it.png").write_bytes(content)
        with pytest.raises(GroundPruneError, match=rf"^it\.png: .*{said}"):
            open_picture(str(tmp_path / "it.png"))

    def test_what_is_thin(self, tmp_path):
        Image.new("1", (20_000, 10)).save(tmp_path / "thin.png")
        with pytest.raises(GroundPruneError, match=r"^thin\.png: 20000 x 10 pixels"):
            open_picture(str(tmp_path / "thin.png"))

    def test_what_is_large_is_shrunk(self, tmp_path):
        Image.new("L", (4096, 1000)).save(tmp_path / "wide.png")
        assert open_picture(str(tmp_path / "wide.png")).image.size == (LONGEST_SIDE, 500)

    def test_what_is_gone(self, tmp_path):
        with pytest.raises(GroundPruneError, match=r"^gone\.png: no such file"):
            open_picture(str(tmp_path / "gone.png"))


def test_pruners_that_the_model_cannot_serve_are_not_offered(bench):
    assert {"cls-visual", "fastv", "trim"} <= set(bench.pruners)
    other = Bench(tiny_model("qwen2_5_vl"), None, "a tower without a class token")
    assert "fastervlm" not in other.pruners
    assert "random" in other.pruners


def test_the_grid_is_the_models(bench):
    assert bench.grid == (12, 12)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "idefics3", "paligemma"])
def test_every_family_is_asked_and_drawn(family, tmp_path):
    bench = Bench(*gp.load(save_tiny(family, tmp_path / family)), name=family)
    for pruner in ("random", bench.pruners[0]):
        reply = bench.ask("scene:7", "the red circle", "rec", pruner, 0.5, "reassigned")
        drawn = panels(reply, "the red circle", "rec")
        several = len(reply.asked[1].scored.kept) > 1
        assert drawn.count("gp-tiles") == (2 if several else 0)
        assert drawn.count("gp-dropped") == (0 if several else 2)
    text = answer(bench.model, bench.processor, scene(7).image, "the red circle", "rec", gp.Random(keep=0.5)).text
    assert bench.ask("scene:7", "the red circle", "rec", "random", 0.5, "reassigned").asked[1].said.text == text
