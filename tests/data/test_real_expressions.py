"""The 47,855 real expressions and boxes of RefCOCO, RefCOCO+ and RefCOCOg, where they lie beside the project."""

import collections
import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from groundprune.boxes import CODECS, Box, iou, make_codec, make_frame
from groundprune.checkpoints.processor import load_processor
from groundprune.checkpoints.prompts import prompt_for
from groundprune.data.refcoco import REFCOCO
from groundprune.evaluation.protocols import Protocol
from groundprune.exactness.layouts import LAYOUTS
from groundprune.families import families

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "refcoco-expressions"
# codec: frame, least mean IoU, steps from 0 to 1
LANGUAGES = {
    "llava": ("padded", 0.96, 100),
    "minigpt-v2": ("original", 0.94, 100),
    "shikra": ("padded", 0.99, 1000),
    "qwen2-vl": ("original", 0.99, 1000),
    "internvl": ("original", 0.99, 1000),
    "bbox-2d-1000": ("original", 0.99, 1000),
    "bbox-2d-pixels": ("original", 0.99, 476),  # of the shorter edge of 644 x 476, what Qwen2.5-VL makes of 640 x 480
    "paligemma": ("original", 0.99, 1023),
    "florence-2": ("original", 0.99, 1000),
    "kosmos-2": ("original", 0.90, 32),
}


@pytest.fixture(scope="module")
def expressions():
    if not FOLDER.is_dir():
        pytest.skip("the expressions are not there")
    found = {}
    for path in sorted(FOLDER.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found[path.name.removesuffix(".jsonl.gz")] = [json.loads(line) for line in file]
    return found


@pytest.fixture(scope="module")
def boxes(expressions):
    """(box, width, height) of an image that holds it, and how many expressions are about it."""
    found = collections.Counter()
    for row in (row for rows in expressions.values() for row in rows):
        box = Box.from_xywh(*row["bbox_xywh"])
        upright = box.y2 > 480.5
        width, height = (480, 640) if upright and box.x2 <= 480.5 else (640, 640 if upright else 480)
        found[box.clip(width, height), width, height] += 1
    return found


def test_there_are_as_many_as_are_published(expressions):
    names = {"refcocog_umd": "refcocog"}
    for name, rows in expressions.items():
        data, _, split = name.rpartition("_")
        assert len(rows) == REFCOCO[names.get(data, data)].counts[split]
    assert sum(map(len, expressions.values())) == 47_855


def test_every_language_is_held_to_its_own_precision():
    assert set(LANGUAGES) == set(CODECS)


@pytest.mark.parametrize("name", LANGUAGES)
def test_boxes_survive_being_said(boxes, name):
    frame_name, least, steps = LANGUAGES[name]
    overlaps = said = 0.0
    for (box, width, height), count in boxes.items():
        size = {"width": 644 if width == 640 else 476, "height": 644 if height == 640 else 476}
        codec = make_codec(name, **(size if name == "bbox-2d-pixels" else {}))
        frame = make_frame(frame_name, width, height)
        unit = frame.to_unit(box)
        read = codec.decode(codec.encode(unit))
        said += count
        if read is not None:
            overlaps += count * iou(frame.to_pixels(read), box)
            assert max(abs(a - b) for a, b in zip(read, unit, strict=True)) <= 1 / steps + 1e-9
    assert said == 47_855
    assert overlaps / said >= least


def processor_of(name, folder):
    if name not in LAYOUTS:  # Shikra and MiniGPT-v2: no chat template
        return SimpleNamespace(image_token="<image>", chat_template=None)
    config = LAYOUTS[name].config(name)
    config.save_pretrained(folder)
    LAYOUTS[name].save(folder, config)
    return load_processor(folder, config)


@pytest.mark.parametrize("protocol", ["native", "paper"])
@pytest.mark.parametrize("name", sorted(families()))
def test_every_expression_is_asked_for_in_its_own_words(expressions, name, protocol, tmp_path):
    processor = processor_of(name, tmp_path)
    asked = Protocol.of(protocol, families()[name].grounding).grounding
    before, after = prompt_for(processor, asked, "rec", "@@@").split("@@@")
    texts = {row["expression"] for rows in expressions.values() for row in rows}
    # The second protocol differs in its wording alone.
    for text in sorted(texts)[:: 1 if protocol == "native" else 10]:
        assert prompt_for(processor, asked, "rec", text) == before + text.strip() + after
    assert processor.image_token in before + after or name == "gemma3"
