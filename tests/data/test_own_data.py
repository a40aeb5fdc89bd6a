"""JSONL, and the columns of lmms-eval from parquet and from load_from_disk, without a net."""

import importlib
import io
import json
import sys

import pytest
from PIL import Image

from groundprune.boxes import Box
from groundprune.data import open_data
from groundprune.errors import GroundPruneError, Unservable
from support.official import SIZES, name_of, write_images


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_jsonl(tmp_path):
    write_images(tmp_path / "kitchen")
    image = f"kitchen/{name_of(1)}"
    spec = write(
        tmp_path / "mine.jsonl",
        {"image": image, "expression": "the mug", "bbox_xywh": [1, 2, 3, 4], "mask": [[1, 2, 3]]},
        {"image": image, "expression": "the mug", "bbox": [1, 2, 3, 4], "id": "x", "type": "left", "others": []},
        {"image": image, "question": "colour?", "answer": "red", "others": [[5, 6, 7, 8]]},
    )
    data = open_data(spec)
    assert [(s.id, s.kind, s.type, s.text) for s in data.samples] == [
        ("1", "rec", "object", "the mug"), ("x", "rec", "left", "the mug"), ("3", "vqa", "question", "colour?"),
    ]  # fmt: skip
    assert [s.box for s in data.samples] == [Box(1, 2, 4, 6), Box(1, 2, 3, 4), None]
    assert data.samples[0].mask == [[1, 2, 3]]
    assert [s.others for s in data.samples] == [None, (), (Box(5, 6, 7, 8),)]
    assert data.samples[0].image.size == SIZES[1]
    assert len({s.image_key for s in data.samples}) == 1
    elsewhere = open_data(spec, tmp_path / "kitchen").samples[0].picture
    assert elsewhere.path == tmp_path / "kitchen" / image


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.jpg", "expression": "a"}, "request 1, is not in the format of a request"),
        ({"image": "a.jpg", "expression": "a", "bbox": [1, 2]}, "request 1"),
        ({"image": "../a.jpg", "question": "a", "answer": "b"}, r"'\.\./a\.jpg' must be a path inside"),
        ({"image": "a.jpg", "question": "a", "answer": "b", "others": [[1, 2]]}, "request 1"),
        ({"image": "a.jpg", "question": "a", "answer": "b", "others": [[1, 2, 3, "4"]]}, "a box is four numbers"),
        ({"image": 3, "question": "a", "answer": "b"}, "request 1"),
        ({}, "request 1"),
    ],
)
def test_what_is_no_request_is_named(tmp_path, row, message):
    with pytest.raises(GroundPruneError, match=message):
        open_data(write(tmp_path / "a.jsonl", row))


def test_jsonl_that_is_no_json(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n[1]\n")
    with pytest.raises(GroundPruneError, match="line 2: no JSON object"):
        open_data(str(tmp_path / "a.jsonl"))
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(GroundPruneError, match="no samples"):
        open_data(str(tmp_path / "a.jsonl"))


def test_without_the_extra_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(Unservable, match=r"groundprune\[eval\]"):
        open_data(str(tmp_path / "a.parquet"))


def photo(size, **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, "JPEG", **options)
    return {"bytes": buffer.getvalue(), "path": None}


def rows():
    """Three rows in lmms-eval's columns, the last image rotated by EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "question_id": ["7", "7", "8"],
        "image": [photo((60, 40)), photo((24, 24)), photo((40, 90), exif=exif)],
        "question": ["Where?"] * 3, "answer": [["the cup", "a cup"], [], ["the man"]],
        "segmentation": [[1.0, 2.0, 3.0], [], [4.0]],
        "bbox": [[1.0, 2.0, 30.0, 20.5], [0.0, 0.0, 1.0, 1.0], [3.0, 3.0, 8.0, 9.0]],
        "iscrowd": [0, 0, 0], "file_name": ["a.jpg", "b.jpg", "c.jpg"],
    }  # fmt: skip


def save_arrow(folder, table):
    """What datasets.save_to_disk writes."""
    pyarrow = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-00002.arrow" for i in range(2)]
    for name, part in zip(names, (table.slice(0, 1), table.slice(1)), strict=True):
        with pyarrow.OSFile(str(folder / name), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")


def saved(folder, how, **columns):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `eval` brings it")
    parquet = importlib.import_module("pyarrow.parquet")
    table = pyarrow.table({name: value for name, value in (rows() | columns).items() if value is not None})
    if how == "parquet":
        parquet.write_table(table, folder / "a.parquet", row_group_size=2)
        return f"{folder / 'a.parquet'}:val"
    if how == "download":  # as a data set lies on the Hub
        (folder / "set" / "data").mkdir(parents=True)
        for i, part in enumerate((table.slice(0, 2), table.slice(2))):
            parquet.write_table(part, folder / "set" / "data" / f"val-{i:05}-of-00002.parquet")
    elif how == "splits":
        save_arrow(folder / "set" / "val", table)
        (folder / "set" / "dataset_dict.json").write_text('{"splits": ["test", "val"]}')
    else:
        save_arrow(folder / "set", table)
    return f"{folder / 'set'}:val"


@pytest.mark.parametrize("how", ["parquet", "download", "disk", "splits"])
def test_the_columns_of_lmms_eval(tmp_path, how):
    data = open_data(saved(tmp_path, how))
    assert [s.text for s in data.samples] == ["the cup", "a cup", "the man"]
    assert [s.box for s in data.samples] == [Box(1, 2, 31, 22.5), Box(1, 2, 31, 22.5), Box(3, 3, 11, 12)]
    assert [s.image.size for s in data.samples] == [(60, 40), (60, 40), (90, 40)]
    assert len({s.id for s in data.samples}) == 3
    assert [len({s.image_key for s in data.samples}), data.samples[0].mask] == [2, [1.0, 2.0, 3.0]]
    assert all(s.picture.size > 100 for s in data.samples)
    assert data.source == f"local data set {data.name}"
    assert data.split == "val"


def test_tables_refuse_what_is_missing(tmp_path):
    spec = saved(tmp_path, "splits")
    with pytest.raises(GroundPruneError, match="no split 'train'"):
        open_data(spec.replace(":val", ":train"))
    with pytest.raises(GroundPruneError, match="lacks the columns bbox"):
        open_data(saved(tmp_path, "parquet", bbox=None))
    with pytest.raises(GroundPruneError, match="neither val-"):
        open_data(f"{tmp_path}:val")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(GroundPruneError, match="cannot read the data set"):
        open_data(f"{tmp_path / 'a.parquet'}:val")


def test_tables_may_name_images_by_path_but_not_outside(tmp_path):
    write_images(tmp_path / "images")
    inner = [f"images/{name_of(i)}" for i in (1, 2, 3)]
    data = open_data(saved(tmp_path, "parquet", image=inner))
    assert [s.image.size for s in data.samples] == [SIZES[1], SIZES[1], SIZES[3]]
    with pytest.raises(GroundPruneError, match="inside of its folder"):
        open_data(saved(tmp_path, "parquet", image=["../a.jpg", *inner[1:]]))
    spec = saved(tmp_path, "disk")
    (tmp_path / "set" / "state.json").write_text('{"_data_files": [{"filename": "../../a.arrow"}]}')
    with pytest.raises(GroundPruneError, match="inside of its folder"):
        open_data(spec)


def test_a_hub_set_is_downloaded_by_its_split_alone(tmp_path, monkeypatch):
    place = saved(tmp_path, "download").partition(":")[0]
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *given, **how: asked.append((given, how)) or place
    )
    data = open_data("hub:lmms-lab/RefCOCO:val")
    assert asked == [(("lmms-lab/RefCOCO",), {"repo_type": "dataset", "allow_patterns": ["*val-*.parquet"]})]
    assert (data.source, len(data.samples)) == ("Hub data set lmms-lab/RefCOCO", 3)
