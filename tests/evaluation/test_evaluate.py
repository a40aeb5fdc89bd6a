"""`evaluate` on the pocket and on files: the same as `compare`, resumable, in two protocols."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from groundprune.boxes import Box
from groundprune.cli import main
from groundprune.data import Sample
from groundprune.data.scenes import scene_samples
from groundprune.errors import GroundPruneError
from groundprune.evaluation import compare, evaluate, read_rows, read_summary
from groundprune.evaluation.asking import windows
from groundprune.evaluation.protocols import Protocol
from groundprune.evaluation.scoring import Scorer
from groundprune.families import families
from groundprune.families.grounding import Grounding
from support.checkpoints import save_tiny
from support.official import write_gqa, write_images, write_refcoco

QUICK = {"pruners": ["random"], "keeps": [0.25], "batch_size": 2, "progress": False}


def lines(folder):
    return sorted((folder / "samples.jsonl").read_bytes().splitlines())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Drawn scenes as files, with three expressions each; the fourth file is broken off."""
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for i, sample in enumerate(scene_samples(4, seed=3)):
        if sample.kind != "rec":
            break
        name = f"{i}.png"
        sample.image.save(folder / name)
        if i == 3:
            (folder / name).write_bytes((folder / name).read_bytes()[:1000])
        for text in (sample.text, "the red circle", "the star"):
            rows.append({"image": name, "expression": text, "bbox": list(sample.box)})
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_on_scenes_it_finds_what_compare_finds(tmp_path):
    compared = compare(scenes=4, seed=5, out=tmp_path / "compare", **QUICK)
    found = evaluate(data="scenes", limit=4, seed=5, out=tmp_path / "evaluate", **QUICK)
    assert lines(tmp_path / "evaluate") == lines(tmp_path / "compare")
    assert (found.settings, found.differences) == (compared.settings, compared.differences)
    assert {k: found.run[k] for k in ("protocol", "data", "split", "scenes", "limit")} == {
        "protocol": "native", "data": "scenes", "split": "held-out", "scenes": 4, "limit": 4,
    }  # fmt: skip


def test_windows_hold_so_many_images_and_split_none():
    photos = [Image.new("RGB", (4, 4))] * 5

    class Photo:
        size = 0

        def __init__(self, key):
            self.key = key

        def open(self):
            return photos[0]

    order = "abacbdaeb"
    data = [Sample(str(i), Photo(key), "vqa", "t", "q", None, "a", "s") for i, key in enumerate(order)]
    found = windows(type("Data", (), {"name": "files", "samples": data})(), 2)
    assert ["".join(s.picture.key for s in part) for part in found] == ["aaabbb", "cd", "e"]


def test_files_window_by_window_and_a_truncated_image(photos, tmp_path, monkeypatch):
    prepared = []
    from groundprune.evaluation import Runner

    stock = Runner.prepare
    monkeypatch.setattr(
        Runner, "prepare", lambda self, *given: (prepared.append(len(self.samples)), stock(self, *given))
    )
    job = {"data": str(photos / "mine.jsonl"), "protocol": "paper", "out": tmp_path / "run", "window": 2, **QUICK}
    summary = evaluate(**job)
    assert prepared == [6, 6]
    assert summary.complete
    assert {result.rec.total.n for result in summary.settings} == {9}
    assert summary.about["unreadable"]["samples"] == 3
    assert "3.png: damaged or truncated" in summary.about["unreadable"]["images"][0]
    assert {k: summary.run[k] for k in ("protocol", "data", "split", "source")} == {
        "protocol": "paper", "data": "mine", "split": "mine", "source": str(photos / "mine.jsonl"),
    }  # fmt: skip
    before = lines(tmp_path / "run")
    again = evaluate(**job)  # nothing is missing but what cannot be read: nothing is encoded
    assert prepared == [6, 6]
    assert lines(tmp_path / "run") == before
    assert again.complete
    with pytest.raises(GroundPruneError, match="protocol: 'paper' there, 'native' here"):
        evaluate(**{**job, "protocol": "native"})


IMPOSSIBLE = {
    "nan": [float("nan"), 1, 50, 50], "swapped": [50, 10, 20, 40], "flat": [5, 5, 5, 40],
    "infinite": [0, 0, 1e400, 9],
    "outside": [5000, 5000, 5100, 5100], "negative": [-90, -90, -10, -10], "mostly outside": [300, 0, 2000, 90],
}  # fmt: skip


def test_boxes_that_cannot_be_are_left_out_counted_and_named(photos, tmp_path, capsys):
    """Window by window, resumed, and beside fine expressions about the same image."""
    fine = [json.loads(line) for line in (photos / "mine.jsonl").read_text().splitlines()[:4]]
    fine[0] |= {"bbox": [-3, -2, 40, 50], "id": "a little outside"}
    rows = [*fine, *({**fine[i % 3], "bbox": box, "id": id} for i, (id, box) in enumerate(IMPOSSIBLE.items()))]
    data = photos / "odd.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {"data": str(data), "out": tmp_path / "run", "window": 1, **QUICK}
    for summary in (evaluate(**job), evaluate(**job)):
        assert {result.rec.total.n for result in summary.settings} == {len(fine)}
        assert summary.complete
        left_out = summary.about["unreadable"]
        assert left_out["samples"] == len(IMPOSSIBLE)
        assert all(any(f"sample {id}: its box [" in why for why in left_out["images"]) for id in IMPOSSIBLE)
    assert {sample for _, sample in read_rows(tmp_path / "run" / "samples.jsonl")} == {
        "a little outside",
        "2",
        "3",
        "4",
    }
    main(["evaluate", "--data", str(data), "--pruner", "random", "--keep", "0.25", "--limit", "6"])
    assert "Left out: 2 samples that cannot be asked. sample nan" in capsys.readouterr().out


@pytest.mark.parametrize("box", [["1", "2", "30", "40"], [None, 1, 2, 3], [True, 0, 9, 9]])
def test_a_box_of_no_numbers_is_refused(tmp_path, box):
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "a.png", "expression": "a", "bbox": box}) + "\n")
    with pytest.raises(GroundPruneError, match="sample 1: a box is four numbers"):
        evaluate(data=str(tmp_path / "a.jsonl"), **QUICK)


def test_no_readable_image_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"image": "a.png", "question": "what", "answer": "a"}\n')
    with pytest.raises(GroundPruneError, match=r"no sample can be asked; the first: .*a\.png: no such file"):
        evaluate(data=str(tmp_path / "a.jsonl"), **QUICK)


KILLED = """
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
torch.set_num_threads(1)
from groundprune.evaluation import evaluate
evaluate(data=sys.argv[1], out=sys.argv[2], pruners=["random"], keeps=[0.25], batch_size=2, window=2, progress=False)
"""


def test_killed_three_times_and_resumed_equals_uninterrupted(photos, tmp_path):
    data, out, draw = str(photos / "mine.jsonl"), tmp_path / "killed", random.Random(7)
    evaluate(data=data, out=tmp_path / "whole", window=2, **QUICK)
    whole = lines(tmp_path / "whole")
    held, environment = [], {**os.environ, "OMP_NUM_THREADS": "1"}
    for kill in range(3):
        wanted = (kill + 1) * len(whole) // 5 + draw.randrange(3)
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, data, str(out)], stdout=subprocess.PIPE, env=environment
        )
        samples, end = out / "samples.jsonl", time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if samples.exists() and samples.read_bytes().count(b"\n") >= wanted:
                time.sleep(draw.random() / 20)
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        held.append(samples.read_bytes().count(b"\n"))
    assert 0 < held[0] <= held[1] <= held[2]
    assert held[0] < len(whole)
    resumed = evaluate(data=data, out=out, window=2, **QUICK)
    assert lines(out) == whole
    uninterrupted = read_summary(tmp_path / "whole")
    assert (resumed.settings, resumed.differences) == (uninterrupted.settings, uninterrupted.differences)


def scored(protocol, codec, answer, size=(100, 50), box=(10, 10, 30, 40), frame="padded"):
    grounding = Grounding("locate {expression}", "{question}", codec=codec, frame=frame)
    sample = Sample("a", Image.new("RGB", size), "rec", "any", "the cup", Box(*box), None, "test")
    return Scorer(grounding, None, protocol).score(sample, answer, size)


class TestProtocols:
    def test_paper_reads_shares_of_the_unpadded_image(self):
        said = "[0.10, 0.20, 0.30, 0.80]"
        assert scored("paper", "llava", said) == {"correct": True, "iou": 1.0, "box": [10, 10, 30, 40]}
        assert scored("native", "llava", said)["iou"] == 0.6  # of the padded square: wrong, and yet above a half
        assert scored("native", "llava", "[0.10, 0.35, 0.30, 0.65]")["iou"] == 1.0

    @pytest.mark.parametrize(
        "said",
        ["", "none", "[0.1, 0.2, 0.3]", "(0.1, 0.2, 0.3, 0.8)", "[.1, .2, .3, .8]", "[0.1 , 0.2, 0.3, 0.8]"],
    )
    def test_what_the_task_does_not_read_is_malformed(self, said):
        assert scored("paper", "llava", said) == {"correct": False, "iou": 0.0, "box": None}

    @pytest.mark.parametrize(
        ("said", "overlap"),
        [
            ("It is at [0.1, 0.2, 0.3, 0.8].", 1.0),
            ("[0.9, 0.9, 1.0, 1.0] or [0.1, 0.2, 0.3, 0.8]", 0.0),  # the first, not the better
            ("[ 0.1,0.2,  0.3,0.8 ]", 1.0),
            ("[0.1, 0.2, 2.1, 0.8]", 0.1),  # neither refused nor cut to the image
            ("[0.3, 0.8, 0.1, 0.2]", 0.0),
            ("[0, 0, 0, 0]", 0.0),
            ("[10, 10, 30, 40]", 0.0),
            ("[-0.1, 0.2, 0.3, 0.8]", 0.5),
        ],
    )
    def test_overlaps_are_those_of_the_task(self, said, overlap):
        found = scored("paper", "llava", said)
        assert found["iou"] == overlap
        assert found["correct"] == (overlap >= 0.5)

    @given(st.text() | st.from_regex(r"\[ *-?[0-9.]{1,400}(, *-?[0-9.]{1,9}){2,4}\]"))
    def test_no_text_raises(self, said):
        found = scored("paper", "llava", said)
        assert 0 <= found["iou"] <= 1
        json.dumps(found, allow_nan=False)

    def test_an_overlap_of_exactly_half(self):
        """Right, but not to the authors of MiniGPT-v2 and Shikra."""
        half = {"size": (100, 100), "box": (0, 0, 50, 50), "frame": "original"}
        assert scored("native", "llava", "[0.00, 0.00, 0.50, 0.25]", **half)["correct"]
        for codec, said in (("shikra", "[0.000,0.000,0.500,0.250]"), ("minigpt-v2", "{<0><0><50><25>}")):
            found = scored("native", codec, said, **half)
            assert (found["iou"], found["correct"]) == (0.5, False)
        for codec, said in (("shikra", "[0.000,0.000,0.500,0.251]"), ("minigpt-v2", "{<0><0><50><26>}")):
            assert scored("native", codec, said, **half)["correct"]
        assert scored("paper", "minigpt-v2", "[0.0, 0.0, 0.5, 0.25]", **half)["correct"]

    def test_the_prompt_of_the_task(self):
        own = families()["shikra"].grounding
        paper = Protocol.of("paper", own).grounding
        assert paper.rec_prompt.startswith(
            "Bounding box coordinates are specified in the format (top-left x, top-left y"
        )
        assert paper.rec_prompt.endswith(
            "bounding box coordinate of the region this sentence describes: {expression}"
        )
        assert paper.vqa_prompt == "{question}\nAnswer the question using a single word or phrase."
        assert Protocol.of("native", own).grounding == own
        with pytest.raises(GroundPruneError, match="unknown protocol 'papr'; did you mean 'paper'"):
            Protocol.of("papr", own)


class TestCommandLine:
    def test_scenes(self, tmp_path, capsys):
        words = ["evaluate", "--limit", "2", "--pruner", "random", "--keep", "0.5", "--positions"]
        assert main([*words, "preserved,reassigned", "--out", str(tmp_path / "run")]) == 0
        out = capsys.readouterr().out
        assert "data     scenes, held-out (drawn scenes, seed 0); protocol: native" in out
        assert (tmp_path / "run" / "report.html").is_file()
        assert len(read_rows(tmp_path / "run" / "samples.jsonl")) == 3 * 4

    def test_files_and_json(self, photos, capsys):
        words = ["evaluate", "--data", str(photos / "mine.jsonl"), "--pruner", "spatial", "--keep", "0.5", "--json"]
        assert main([*words, "--protocol", "paper", "--positions", "preserved"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["run"]["protocol"], found["about"]["unreadable"]["samples"]) == ("paper", 3)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--data", "refcoco:val"], "data/refcoco/refs(unc).p: no such file"),
            (["--data", "refcok:val"], "did you mean 'refcoco"),
            (["--protocol", "best"], "unknown protocol 'best'"),
            (["--limit", "0"], "limit must be a whole number of at least 1"),
            (["--batch-size", "0"], "must be at least 1"),
        ],
    )
    def test_mistakes_are_one_line(self, words, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(["evaluate", *words]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_a_benchmark_end_to_end(family, tmp_path):
    """From the official files of RefCOCO and GQA to a report, on a random model."""
    root = tmp_path / "data"
    write_images(root / "coco" / "train2014")
    write_refcoco(root)
    write_gqa(root)
    model = str(save_tiny(family, tmp_path / "model"))
    words = ["evaluate", "--model", model, "--data-root", str(root), "--pruner", "spatial", "--keep", "0.5"]
    words += ["--positions", "preserved"]
    for data, protocol in (("refcoco:val", "paper"), ("refcoco:val", "native"), ("gqa:testdev", "native")):
        out = tmp_path / f"{data[:3]}-{protocol}"
        assert main([*words, "--data", data, "--protocol", protocol, "--out", str(out)]) == 0
        summary = read_summary(out)
        assert summary.complete
        assert summary.run["source"].startswith("official files")
        assert {r.rec.total.n + r.vqa.total.n for r in summary.settings} == {6}
        assert (out / "report.html").is_file()
