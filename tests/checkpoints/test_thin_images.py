"""Images of any shape are squared in memory that the image and what the tower sees bound, to the same pixels."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import transformers
from PIL import Image

from groundprune.checkpoints.processor import load_processor
from groundprune.checkpoints.prompts import framed
from groundprune.exactness.layouts import LAYOUTS
from groundprune.families import families
from groundprune.families.grounding import Grounding
from support.checkpoints import SERVED

SHAPES = [(6000, 40), (40, 6000)]
PADDED = [name for name in SERVED if families()[name].grounding.frame == "padded"]
MEMORY = 24e6  # bytes; the canvas alone of such an image has 108e6


def photo(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(params=PADDED)
def processor(request, tmp_path):
    """The processor that `gp.load` makes."""
    found, layout = families()[request.param], LAYOUTS[request.param]
    config = layout.config(request.param)
    config.save_pretrained(tmp_path)
    layout.save(tmp_path, config)
    return found.prepare_processor(load_processor(tmp_path, config))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("frame", ["padded", "original"])
def test_no_canvas_is_made_of_a_thin_image(processor, frame, shape):
    """`original`: as a server gets it, which pads by the processor alone."""
    image = photo(*shape)
    tracemalloc.start()  # of arrays; Pillow's images are counted by their size
    seen = framed(processor, Grounding("{expression}", "{question}", "llava", frame), image)
    text = getattr(processor, "image_token", "<image>")
    processor(images=[[seen]], text=[f"{text} the"], return_tensors="pt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY
    assert seen is image or seen.width * seen.height * 3 < MEMORY


@pytest.mark.parametrize("shape", [(300, 30), (30, 300), (1000, 3), (60, 40), (50, 50), (20, 12)])
def test_llava_gets_the_pixels_of_the_padded_image(shape):
    settings = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}, "do_pad": True}
    stock = transformers.LlavaImageProcessorPil(**settings)
    ours = families()["llava"].prepare_processor(SimpleNamespace(image_processor=stock)).image_processor
    wanted, found = (np.stack(each(photo(*shape))["pixel_values"]) for each in (stock, ours))
    assert ours.to_dict() == stock.to_dict()  # whoever loads what is saved gets the stock class
    thin_and_tall = shape[1] > 4 * shape[0]  # is turned: Pillow rounds between its two passes
    assert np.abs(found - wanted).max() <= (2.5 / 255 / min(stock.image_std) if thin_and_tall else 0)
