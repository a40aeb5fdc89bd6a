"""The official files: one sample an expression, boxes and images as they are published."""

import json
import pickle
import pickletools

import numpy as np
import pytest

from groundprune.boxes import FRAMES, Box, make_frame
from groundprune.boxes.images import ImageError
from groundprune.cli import main
from groundprune.data import check_data, open_data
from groundprune.data.pickles import read_pickle
from groundprune.errors import GroundPruneError
from support.official import BOXES, REFS, SIZES, name_of, write_refcoco

VAL = ["the red cup", "cup on the left", "tall one", "bottom", "the lowest", "under the rest", "broken"]


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog"])
def test_a_sample_is_an_expression(root, name):
    data = open_data(f"{name}:val", root)
    assert [s.text for s in data.samples] == VAL
    assert len({s.id for s in data.samples}) == len(VAL)
    assert {(s.kind, s.type, s.split, s.answer) for s in data.samples} == {("rec", "kitchen", "val", None)}
    assert data.source == f"official files, refs({'umd' if name == 'refcocog' else 'unc'}).p"
    assert data.official == {"refcoco": 10834, "refcoco+": 10758, "refcocog": 4896}[name]
    assert len({s.image_key for s in data.samples}) == 4


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickles_of_every_age(tmp_path, protocol):
    write_refcoco(tmp_path, protocol=protocol)
    assert [s.text for s in open_data("refcoco:testA", tmp_path).samples] == ["man in café"]


def test_text_that_python_2_wrote_as_bytes(tmp_path):
    # SHORT_BINSTRING, what Python 2 made of a str.
    (tmp_path / "a.p").write_bytes(b"\x80\x02U\x05caf\xc3\xa9.")
    assert read_pickle(tmp_path / "a.p") == "café"


def test_boxes_and_masks(root):
    samples = {s.text: s for s in open_data("refcoco:val", root).samples}
    assert samples["tall one"].box == Box(5.5, 6.25, 35.5, 46.25)
    assert samples["tall one"].mask == {"size": [64, 48], "counts": [10, 20, 3042]}
    assert samples["bottom"].mask == [[2.0, 40.0, 5.0, 40.0, 2.0, 43.0]]


@pytest.mark.parametrize("frame", sorted(FRAMES))
def test_boxes_come_back_from_every_frame(root, frame):
    samples = [*open_data("refcoco:val", root, limit=6).samples, *open_data("refcoco:testA", root).samples]
    for sample in samples:
        made = make_frame(frame, *sample.image.size)
        assert list(made.to_pixels(made.to_unit(sample.box))) == pytest.approx(list(sample.box), abs=1e-9)


def test_images_are_upright_rgb_of_the_size_that_boxes_are_measured_in(root):
    samples = [*open_data("refcoco:val", root, limit=6).samples, *open_data("refcoco:testA", root).samples]
    for image in (1, 2, 3, 4):
        (picture,) = {s.picture for s in samples if s.image_key == name_of(image)}
        opened = picture.open()
        assert (opened.mode, opened.size) == ("RGB", SIZES[image])
    rotated = np.asarray(samples[-1].image, dtype=float)
    drawn = np.random.default_rng(4).integers(0, 255, (50, 80, 3), dtype=np.uint8)
    turned = rotated[::-1, ::-1]
    assert abs(rotated - drawn).mean() < abs(turned - drawn).mean()


def test_nothing_is_opened_before_it_is_asked_for(root, monkeypatch):
    monkeypatch.setattr("groundprune.data.pictures.load_image", lambda path: pytest.fail("opened"))
    assert len(open_data("refcoco:val", root).samples) == len(VAL)


def test_a_truncated_image_says_so(root):
    with pytest.raises(ImageError, match="damaged or truncated"):
        _ = open_data("refcoco:val", root).samples[-1].image


class Evil:
    def __init__(self, code):
        self.code = code

    def __reduce__(self):
        return exec, (self.code,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_a_malicious_pickle_is_refused_without_running(root, tmp_path, protocol):
    ran = tmp_path / "ran"
    content = pickle.dumps([{"split": "val"}, Evil(f"open({str(ran)!r}, 'w')")], protocol=protocol)
    (root / "refcoco" / "refs(unc).p").write_bytes(content)
    with pytest.raises(GroundPruneError, match=r"refs\(unc\)\.p asks for .*exec; only builtin containers"):
        open_data("refcoco:val", root)
    assert not ran.exists()
    pickle.loads(content)  # the control: a plain unpickler runs it
    assert ran.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x80\x04\x95",
        b"cos\nsystem\n.",
        b"Pid\n.",
        b"\x82\x01.",
        b"cbuiltins\ngetattr\n.",
        b"]q\x00h\x07.",
    ],
)
def test_odd_pickles_are_one_line(tmp_path, content):
    path = tmp_path / "a.p"
    path.write_bytes(content)
    with pytest.raises(GroundPruneError, match=r"a\.p") as raised:
        read_pickle(path)
    assert "\n" not in str(raised.value)


def test_builtin_containers_are_read(tmp_path):
    value = [{"a": (1, 2.5, None, True)}, {3, 4}, frozenset([5]), "é"]
    for protocol in range(5):
        content = pickle.dumps(value, protocol=protocol)
        assert any(op.name in ("GLOBAL", "STACK_GLOBAL", "EMPTY_SET") for op, _, _ in pickletools.genops(content))
        (tmp_path / "a.p").write_bytes(content)
        assert read_pickle(tmp_path / "a.p") == value


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "a/../../b.jpg", "/etc/passwd", "..\\b.jpg", "C:b.jpg", "", "a\0b"]
)
def test_an_image_outside_of_its_folder_is_refused_by_name(root, name):
    path = root / "refcoco" / "instances.json"
    path.write_text(path.read_text().replace(name_of(1), name.replace("\\", "\\\\").replace("\0", "\\u0000")))
    with pytest.raises(GroundPruneError, match="must be a path inside of its folder") as raised:
        open_data("refcoco:val", root)
    assert repr(name) in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("refcoco:train", "unknown split of refcoco 'train'.*testA"),
        ("refcoco", "unknown split"),
        ("refcok:val", "did you mean 'refcoco"),
        ("gqa:val", "unknown split of gqa"),
        ("nowhere/a.parquet", "no data at"),
        ("scenes:nowhere", "unknown split"),
        ("missing.jsonl", "no such file"),
    ],
)
def test_what_is_not_there_is_named(root, spec, message):
    with pytest.raises(GroundPruneError, match=message):
        open_data(spec, root)


def test_files_of_another_format_are_one_line(root):
    (root / "refcoco" / "instances.json").write_text('{"annotations": [{"bbox": []}]}')
    with pytest.raises(GroundPruneError, match=r"instances\.json is not in the format of refcoco .*KeyError"):
        open_data("refcoco:val", root)
    (root / "gqa" / "testdev_balanced_questions.json").write_text('{"1": {"question": "a"}}')
    with pytest.raises(GroundPruneError, match="not in the format of GQA"):
        open_data("gqa:testdev", root)


def test_gqa_and_its_spatial_questions(root):
    every, spatial = open_data("gqa:testdev", root), open_data("gqa:testdev-spatial", root)
    assert [s.id for s in every.samples] == ["201", "202", "203", "204", "205", "206"]
    assert [s.id for s in spatial.samples] == ["201", "203"]
    assert {(s.kind, s.box) for s in every.samples} == {("vqa", None)}
    assert spatial.samples[0].answer == "left"
    assert spatial.samples[0].image.size == (50, 40)


def test_limit(root):
    assert len(open_data("refcoco:val", root, limit=2).samples) == 2
    assert [s.kind for s in open_data("scenes", limit=2).samples] == ["rec", "rec", "vqa", "vqa"]
    with pytest.raises(GroundPruneError, match="at least 1"):
        open_data("scenes", limit=0)


def test_check_tells_counts_and_what_is_missing(root):
    (root / "coco" / "train2014" / name_of(2)).unlink()
    (root / "refcocog" / "refs(umd).p").unlink()
    report = check_data(root, open_images=True)
    found = {split.spec: split for split in report.found}
    assert (found["refcoco:val"].samples, found["refcoco:val"].official) == (7, 10834)
    assert (found["refcoco:val"].images, found["refcoco:val"].absent) == (4, 1)
    assert len(found["refcoco:val"].damaged) == 1
    assert found["refcoco:val"].wrong
    assert not found["gqa:testdev"].wrong
    assert found["gqa:testdev-spatial"].samples == 2
    assert "refcocog:val" not in found
    assert [file for file in report.missing if "screenspot" not in file] == ["refcocog/refs(umd).p"]
    with pytest.raises(GroundPruneError, match="no such folder"):
        check_data(root / "none")


def test_check_names_boxes_that_cannot_be(root, capsys):
    file = root / "refcoco" / "instances.json"
    content = json.loads(file.read_text())
    for entry in content["annotations"]:
        entry["bbox"] = {11: [float("nan"), 0, 9, 9], 12: [500, 500, 9, 9]}.get(entry["id"], entry["bbox"])
    file.write_text(json.dumps(content))
    for images, count in ((False, 2), (True, 3)):  # what lies outside shows with the image; 11 has two expressions
        found = {split.spec: split for split in check_data(root, open_images=images).found}
        assert len(found["refcoco:val"].impossible) == count
        assert found["refcoco:val"].wrong
        assert not found["refcoco+:val"].impossible
    main(["data", "check", str(root)])
    assert "impossible: sample 100: its box [nan, 0, nan, 9]" in capsys.readouterr().out


def test_check_on_the_command_line(root, tmp_path, capsys):
    assert main(["data", "check", str(root)]) == 1
    assert "7 samples, but 10834 are published; 4 images, all there" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["data", "check", str(tmp_path / "empty")]) == 0
    out = capsys.readouterr().out
    assert out.count("missing") == 12
    assert "train2014.zip" in out


def test_boxes_of_the_fixture_lie_inside_of_their_images():
    for _, annotation, image, _ in REFS:
        x, y, width, height = BOXES[annotation]
        assert x + width <= SIZES[image][0]
        assert y + height <= SIZES[image][1]
