"""Encoding once, in every kind of family: the same as asking about each image on its own."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

import groundprune as gp
from groundprune.answers import answer
from groundprune.boxes import Box
from groundprune.data import Sample
from groundprune.errors import GroundPruneError
from groundprune.evaluation import Runner, Setting, meter, preparing
from groundprune.families import family_of
from support.checkpoints import save_tiny

FAMILIES = ["llava", "qwen2_5_vl", "gemma3", "llava_next", "paligemma", "qwen3_vl", "qwen3_5"]
SIZES = [(60, 35), (24, 24), (17, 70), (48, 48)]
SETTINGS = [
    Setting.of(),
    Setting.of("random", 0.5),
    Setting.of("cls-visual", 0.5, positions="reassigned"),
    Setting.of("spatial", 0.25, positions="stretched"),
    Setting.of(positions="shifted:8"),
]


class Photo:
    """A picture that counts how often it is opened."""

    size = 1

    def __init__(self, number):
        self.key, self.opened = f"photo {number}", 0
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZES[number][::-1], 3), dtype=np.uint8)
        self._image = Image.fromarray(pixels)

    def open(self):
        self.opened += 1
        return self._image


@pytest.fixture(params=FAMILIES, scope="module")
def loaded(request, tmp_path_factory):
    return gp.load(save_tiny(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def samples():
    """Ten questions of different lengths about four photos, some asked about twice or thrice, in mixed order."""
    photos = [Photo(i) for i in range(len(SIZES))]
    order = [0, 1, 2, 0, 3, 2, 0, 1, 3, 2]
    words = itertools.cycle(["the red circle", "w20 w30", "w40 the w50 w60 w70", "red"])
    found = []
    for i, (photo, text) in enumerate(zip(order, words, strict=False)):
        kind = "vqa" if i % 3 == 2 else "rec"
        truth = (None, "red") if kind == "vqa" else (Box(1, 1, 9, 9), None)
        found.append(Sample(str(i), photos[photo], kind, "any", text, *truth, "test"))
    return found


def answers(made, setting, done=()):
    return {row["sample"]: row for rows in made.run(setting, done) for row in rows}


def test_encoded_once_answers_as_asked_one_by_one(loaded, samples, monkeypatch):
    model, processor = loaded
    monkeypatch.setattr(preparing, "ENCODE_BATCH", 1)
    monkeypatch.setattr(meter, "tower_flops", lambda *_: None)  # which sees a blank image
    made = Runner(model, processor, samples, batch_size=3)
    calls = []
    handle = family_of(model.config).tower(model.base_model).register_forward_hook(lambda *_: calls.append(1))
    made.prepare(SETTINGS)
    found = {setting: answers(made, setting) for setting in SETTINGS}
    handle.remove()
    assert len(calls) == len(SIZES)
    for i, sample in enumerate(samples * 2):
        setting = SETTINGS[(i + i // len(samples)) % len(SETTINGS)]
        monkeypatch.setattr(model.generation_config, "max_new_tokens", made.max_new_tokens(sample.kind))
        pruner = None if setting.plain else setting.make_pruner()
        alone = answer(model, processor, sample.image, sample.text, sample.kind, pruner, setting.positions)
        row = found[setting][sample.id]
        assert row["answer"] == alone.text, (setting.id, sample.id)
        assert row["kept"] == alone.kept_tokens


def test_photos_are_opened_once_and_not_held(loaded, samples):
    model, processor = loaded
    before = [s.picture.opened for s in samples]
    made = Runner(model, processor, samples, batch_size=4)
    made.prepare(SETTINGS[:2])
    answers(made, SETTINGS[0])
    assert {s.picture.opened - b for s, b in zip(samples, before, strict=True)} == {1}
    held = [unit.pixels.numel() for _, _, record in made._ready.encoded._rows for unit in record.units]
    assert set(held) == {0}


def test_out_of_memory_halves_the_batch_and_goes_on(loaded, samples, monkeypatch):
    model, processor = loaded
    whole = Runner(model, processor, samples, batch_size=2)
    whole.prepare(SETTINGS)
    made = Runner(model, processor, samples, batch_size=8)
    made.prepare(SETTINGS)
    stock, sizes = model.generate, []

    def generate(**inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stock(**inputs)

    setting = SETTINGS[1]
    wanted = answers(whole, setting)
    monkeypatch.setattr(model, "generate", generate)
    assert answers(made, setting) == wanted
    # 7 boxes, then 3 questions: these come in parts of what has turned out to fit.
    assert sizes == [7, 4, 2, 2, 3, 2, 1, 2, 1]

    def never(**inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "generate", never)
    with pytest.raises(GroundPruneError, match="out of memory with a single prompt"):
        answers(made, setting)


def test_out_of_memory_in_the_tower(loaded, samples, monkeypatch):
    model, processor = loaded
    stock, sizes = preparing.encode, []

    def encode(model, inputs, pruners):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stock(model, inputs, pruners)

    monkeypatch.setattr(preparing, "encode", encode)
    made = Runner(model, processor, samples, batch_size=4)
    made.prepare(SETTINGS[:1])
    assert sizes == [4, 2, 1, 1, 2, 1, 1]
    assert len(answers(made, SETTINGS[0])) == len(samples)
