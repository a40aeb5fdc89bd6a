"""Processors of all families on folders in the real file layout, held against transformers' own classes."""

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from groundprune.checkpoints import processor as processing
from groundprune.checkpoints.processor import load_processor, resized_size
from groundprune.checkpoints.prompts import chat_prompt, model_inputs
from groundprune.errors import GroundPruneError, Unservable
from groundprune.exactness.layouts import LAYOUTS
from groundprune.families.grounding import Grounding

SIZES = [(60, 35), (24, 24), (17, 70)]
GROUNDING = Grounding("{expression}", "{question}", "llava", "original", turn="{image}{text}")
QWEN = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"]
VIDEOS = ["llava_onevision", *QWEN, "internvl", "smolvlm"]
OF_OTHERS = {"mistral3": "pixtral", "qwen3_5": "qwen3_vl"}  # whose processor a family takes


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, layout in LAYOUTS.items():
        folder, config = tmp_path_factory.mktemp(name), layout.config(name)
        config.save_pretrained(folder)
        layout.save(folder, config)
        made[name] = folder, config
    return made


@pytest.fixture(params=LAYOUTS)
def name(request):
    return request.param


@pytest.fixture
def loaded(folders, name):
    return load_processor(*folders[name])


def picture(width, height):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def stock(monkeypatch, name, folder, loaded):
    """A processor of transformers' own class, made from the same parts; no check asks for what only videos need."""
    owner = OF_OTHERS.get(name, name)
    file = importlib.import_module(f"transformers.models.{owner}.processing_{owner}")
    if hasattr(file, "num2words"):
        monkeypatch.setattr(file, "num2words", str)
    monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None)
    cls = getattr(file, PROCESSOR_MAPPING_NAMES[name])
    parts = {"image_processor": loaded.image_processor, "tokenizer": loaded.tokenizer}
    if "video_processor" in cls.get_attributes():
        parts["video_processor"] = SimpleNamespace(num_frames=None, fps=None)
    about, _ = ProcessorMixin.get_processor_dict(folder)
    return cls(**parts, **{key: value for key, value in about.items() if key != "processor_class"})


def prompt(processor, images, text="the red circle"):
    if processor.chat_template is None:
        return processor.image_token * images + text
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


@pytest.mark.parametrize("shapes", [[[SIZES[0]]], [[SIZES[2]]], [[SIZES[0], SIZES[2]]], [[size] for size in SIZES]])
def test_reads_what_the_stock_class_reads(monkeypatch, folders, name, loaded, shapes):
    own = stock(monkeypatch, name, folders[name][0], loaded)
    images = [[picture(*size) for size in row] for row in shapes]
    texts = [prompt(loaded, len(row), "the " * i + "red circle") for i, row in enumerate(shapes)]
    assert texts == [prompt(own, len(row), "the " * i + "red circle") for i, row in enumerate(shapes)]
    options = {"images": images, "padding": True, "padding_side": "left", "return_tensors": "pt"}
    found, expected = loaded(text=list(texts), **options), own(text=list(texts), **options)
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert torch.is_tensor(value)
        assert found[key].equal(value), key
    if len(shapes) > 1:
        assert not found["attention_mask"].all()  # the batch is padded


def test_says_what_the_stock_class_says(monkeypatch, folders, name, loaded):
    if name == "qwen3_5":
        pytest.skip("its stock tokenizer reads bytes, whatever stands in a folder; the tiny one holds words")
    own = stock(monkeypatch, name, folders[name][0], loaded)
    ids = loaded.tokenizer("the red circle")["input_ids"]
    assert loaded.decode(ids) == own.decode(ids) == "the red circle"
    assert loaded.batch_decode([ids]) == own.batch_decode([ids])
    assert (loaded.image_token, loaded.tokenizer.padding_side) == (own.image_token, "left")


def test_image_processors_are_those_for_pillow(name, loaded):
    if is_torchvision_available():
        pytest.skip("torchvision is there")
    assert type(loaded.image_processor).__name__.endswith("ImageProcessorPil")


@pytest.mark.parametrize("name", VIDEOS, indirect=True)
def test_videos_are_refused_where_torchvision_is_missing(name, loaded):
    if is_torchvision_available():
        pytest.skip("torchvision is there")
    video = np.zeros((1, 2, 24, 24, 3), dtype=np.uint8)
    with pytest.raises(Unservable, match="torchvision"):
        loaded(text=[loaded.video_token], videos=list(video), return_tensors="pt")


def test_with_torchvision_the_stock_processor_is_used_as_it_is(monkeypatch, folders):
    monkeypatch.setattr(processing, "is_torchvision_available", lambda: True)
    seen = []
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda *given, **_: seen.append(given))
    folder, config = folders["qwen2_5_vl"]
    load_processor(folder, config)
    assert seen == [(folder,)]


def test_transformers_is_left_as_it_was(folders):
    from transformers.models.smolvlm import processing_smolvlm

    before = processing_smolvlm.num2words
    for name in ("smolvlm", "mistral3"):
        load_processor(*folders[name])
    assert processing_smolvlm.num2words is before
    assert ("transformers.models.pixtral.image_processing_pixtral" in sys.modules) == is_torchvision_available()


def test_one_image_a_prompt_is_read_by_every_family(loaded):
    images = [picture(*size) for size in SIZES]
    prompts = [chat_prompt(loaded, "the " * i + "red circle", GROUNDING.turn) for i in range(len(SIZES))]
    inputs = model_inputs(loaded, GROUNDING, images, prompts)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape
    assert inputs["attention_mask"][:, -1].all()
    assert not inputs["attention_mask"][:, 0].all()
    assert "labels" not in inputs


def test_placeholders_are_as_many_as_the_model_has_features(folders, name, loaded):
    """Counted from the shapes of what goes into the tower."""
    config = folders[name][1]
    image = model_inputs(loaded, GROUNDING, [picture(60, 35)], [chat_prompt(loaded, "red", GROUNDING.turn)])
    token = next(iter(LAYOUTS[name].marks))
    count = int((image["input_ids"] == getattr(config, token)).sum())
    crops = image["pixel_values"].flatten(0, -4).shape[0] if image["pixel_values"].ndim > 3 else 1
    if name in QWEN:
        expected = int(image["image_grid_thw"].prod()) // config.vision_config.spatial_merge_size**2
    elif name == "mistral3":
        rows, cols = (image["image_sizes"][0] // (4 * config.spatial_merge_size)).tolist()
        expected = rows * cols
    elif name in ("llava_next", "llava_onevision"):
        return  # the model drops padding and adds newlines; its family's tests hold that against the model
    else:
        size, patch = config.vision_config.image_size, config.vision_config.patch_size
        patches = (size[0] // patch[0] if isinstance(size, list) else size // patch) ** 2
        expected = crops * patches // (4 if name in ("internvl", "gemma3", "idefics3", "smolvlm") else 1)
    assert count == expected > 0


@pytest.mark.parametrize("size", [(60, 35), (640, 480), (9, 900), (24, 24), (1000, 30), (3, 3)])
@pytest.mark.parametrize("name", QWEN, indirect=True)
def test_resized_size_is_what_the_image_processor_makes(name, loaded, size):
    _, rows, cols = loaded.image_processor(images=picture(*size), return_tensors="pt")["image_grid_thw"][0].tolist()
    patch = loaded.image_processor.patch_size
    assert resized_size(loaded, *size) == (cols * patch, rows * patch)


def test_resized_size_is_refused_where_it_means_nothing(folders):
    with pytest.raises(GroundPruneError, match="Qwen2-VL's way to resize"):
        resized_size(load_processor(*folders["llava"]), 10, 10)
    with pytest.raises(GroundPruneError, match=r"3000 x 1 pixels cannot be resized: .*aspect ratio"):
        resized_size(load_processor(*folders["qwen2_vl"]), 3000, 1)


def test_a_template_that_can_think_is_told_not_to(folders):
    """Qwen3.5's begins the answer with <think>, unless it is told: neither box nor word would come in time."""
    processor = load_processor(*folders["qwen3_vl"])
    assert not chat_prompt(processor, "red").endswith("think>")
    processor.chat_template += (
        "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% else %}<think>{% endif %}"
    )
    assert chat_prompt(processor, "red").endswith("<think></think>")
