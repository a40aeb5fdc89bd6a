"""ScreenSpot's three versions, from hand-made files in the layouts that they are published in."""

import json

import pytest
from PIL import Image

from groundprune.boxes import Box
from groundprune.cli import main
from groundprune.data import check_data, open_data
from groundprune.data.screenspot import SCREENSPOT
from groundprune.data.sources import as_task
from groundprune.errors import GroundPruneError
from groundprune.evaluation import evaluate

SIZE = (320, 200)


def entry(name, bbox, kind="text", **more):
    return {"img_filename": name, "bbox": bbox, "instruction": "close this window", "data_type": kind,
            "data_source": "windows", **more}  # fmt: skip


def write_three(root, folder, images, ending):
    """One instruction on each platform, and a second one on the web's screenshot."""
    (root / folder / images).mkdir(parents=True)
    for platform, box in (("mobile", [10, 20, 30, 40]), ("desktop", [100, 60, 20, 20]), ("web", [0, 0, 320, 20])):
        name = f"{platform}_1.png"
        Image.new("RGB", SIZE, "white").save(root / folder / images / name)
        entries = [entry(name, box)] + [entry(name, [200, 100, 40, 40], "icon")] * (platform == "web")
        (root / folder / f"screenspot_{platform}{ending}.json").write_text(json.dumps(entries))


def write_pro(root):
    folder = root / "screenspot-pro" / "annotations"
    folder.mkdir(parents=True)
    for name in SCREENSPOT["pro"].names:
        (folder / f"{name}.json").write_text("[]")
    (root / "screenspot-pro" / "images" / "vscode_mac").mkdir(parents=True)
    Image.new("RGB", SIZE, "white").save(root / "screenspot-pro" / "images" / "vscode_mac" / "a.png")
    about = {"instruction": "refresh the explorer", "instruction_cn": "...", "application": "vscode", "group": "Dev",
             "platform": "macos", "img_size": list(SIZE), "img_filename": "vscode_mac/a.png"}  # fmt: skip
    entries = [
        {**about, "id": "vscode_macos_0", "bbox": [200, 100, 240, 140], "ui_type": "icon"},
        {**about, "id": "vscode_macos_1", "bbox": [10, 20, 30, 40], "ui_type": "text"},
    ]
    (folder / "vscode_macos.json").write_text(json.dumps(entries))


@pytest.fixture
def root(tmp_path):
    write_three(tmp_path, "screenspot", "screenspot_imgs", "")
    write_three(tmp_path, "screenspot-v2", "screenspotv2_image", "_v2")
    write_pro(tmp_path)
    return tmp_path


def change(root, file, edit):
    path = root / file
    entries = json.loads(path.read_text())
    edit(entries)
    path.write_text(json.dumps(entries))


MOBILE_V2 = "screenspot-v2/screenspot_mobile_v2.json"


@pytest.mark.parametrize(
    ("version", "boxes"),
    [
        ("v1", [(10, 20, 40, 60), (100, 60, 120, 80), (0, 0, 320, 20), (200, 100, 240, 140)]),
        ("v2", [(10, 20, 40, 60), (100, 60, 120, 80), (0, 0, 320, 20), (200, 100, 240, 140)]),
        # The same numbers, when they are said to be corners.
        ("v2-xyxy", [(10, 20, 30, 40), (100, 60, 20, 20), (0, 0, 320, 20), (200, 100, 40, 40)]),
    ],
)
def test_boxes_are_written_as_the_version_says(root, version, boxes):
    data = open_data(f"screenspot:{version}", root)
    assert [s.box for s in data.samples] == [Box(*box) for box in boxes]
    assert [s.type for s in data.samples] == ["mobile text", "desktop text", "web text", "web icon"]
    assert {s.text for s in data.samples} == {"close this window"}
    assert len({s.id for s in data.samples}) == 4
    assert {s.image.size for s in data.samples} == {SIZE}
    assert data.official == 1272
    assert ("x1, y1, x2, y2" if version == "v2-xyxy" else "x, y, width, height") in data.source


def test_pro_says_corners_and_its_results_are_split_by_group(root):
    data = open_data("screenspot:pro", root)
    assert [(s.box, s.type) for s in data.samples] == [
        (Box(200, 100, 240, 140), "Dev icon"), (Box(10, 20, 30, 40), "Dev text"),
    ]  # fmt: skip
    assert data.samples[0].image.size == SIZE
    assert data.official == 1581


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda e: e[0].update(bbox=[0.1, 0.2, 0.3, 0.4]), r"entry 0: bbox .* holds shares of the image, not pixels"),
        (lambda e: e[0].update(bbox=[1, 2, 3]), "is not four numbers"),
        (lambda e: e[0].update(bbox=["1", 2, 3, 4]), "entry 0, is not in the format of screenspot:v2"),
        (lambda e: e[0].update(bbox=None), "entry 0, is not in the format"),
        (lambda e: e[0].pop("instruction"), "entry 0, is not in the format of screenspot:v2 .*instruction"),
        (lambda e: e[0].update(data_type="button"), r"data_type must be one of text, icon \(got 'button'\)"),
        (lambda e: e[0].update(img_filename="../../secret.png"), "must be a path inside of its folder"),
        (lambda e: e[0].update(img_filename="/etc/passwd"), "must be a path inside of its folder"),
        (lambda e: e.append(7), "entry 1, is not in the format"),
    ],
)
def test_what_is_no_instruction_is_named(root, edit, message):
    change(root, MOBILE_V2, edit)
    with pytest.raises(GroundPruneError, match=message):
        open_data("screenspot:v2", root)


def test_other_layouts_are_refused(root):
    with pytest.raises(GroundPruneError, match=r"unknown version of screenspot 'v3'.*v2-xyxy"):
        open_data("screenspot:v3", root)
    with pytest.raises(GroundPruneError, match="unknown version of screenspot ''"):
        open_data("screenspot", root)
    (root / "screenspot-v2" / "screenspot_web_v2.json").write_text("7")
    with pytest.raises(GroundPruneError, match="is not in the format"):
        open_data("screenspot:v2", root)
    (root / MOBILE_V2).unlink()
    with pytest.raises(GroundPruneError, match="no such file"):
        open_data("screenspot:v2", root)
    (root / "screenspot-v2" / "data").mkdir()
    (root / "screenspot-v2" / "data" / "test-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(GroundPruneError, match="is a table, whose boxes may be in any unit"):
        open_data("screenspot:v2", root)


def test_boxes_outside_of_their_image_are_left_out_and_counted(root, tmp_path):
    change(root, MOBILE_V2, lambda e: e.append(entry("mobile_1.png", [400, 20, 30, 40])))
    found = evaluate(
        "pocket", "screenspot:v2", [], [], ["preserved"], out=tmp_path / "run", data_root=root, progress=False,
        task="point",
    )  # fmt: skip
    assert found.settings[0].point.total.n == 4
    assert found.about["unreadable"]["samples"] == 1
    assert "lies outside of its image of 320 x 200" in found.about["unreadable"]["images"][0]


def test_corners_read_as_sizes_show(root):
    """What a wrong version does: edges swapped, or boxes out of the image; both are named."""
    samples = as_task(open_data("screenspot:v2-xyxy", root), "point").samples
    assert sum(s.impossible(*SIZE) is not None for s in samples) == 2


def test_check_tells_what_is_there(root, capsys):
    (root / "screenspot-v2" / "screenspotv2_image" / "web_1.png").write_bytes(b"no image")
    change(root, "screenspot/screenspot_mobile.json", lambda e: e.append(entry("gone.png", [0, 0, 5, 5])))
    found = {split.spec: split for split in check_data(root, open_images=True).found}
    assert set(found) == {"screenspot:v1", "screenspot:v2", "screenspot:pro"}
    assert (found["screenspot:v1"].images, found["screenspot:v1"].absent, found["screenspot:v1"].damaged) == (
        4,
        1,
        [],
    )
    assert len(found["screenspot:v2"].damaged) == 1  # of the same name as an image of v1 that is fine
    assert main(["data", "check", str(root)]) == 1
    out = capsys.readouterr().out
    assert "screenspot:pro         2 samples, but 1581 are published; 1 images, all there" in out
    (root / "screenspot-pro" / "annotations" / "vscode_macos.json").unlink()
    missing = check_data(root).missing
    assert [file for file in missing if "screenspot" in file] == ["screenspot-pro/annotations/vscode_macos.json"]
