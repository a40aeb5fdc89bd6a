"""`groundprune ground` on a tiny checkpoint of each family that is served, from a folder in the real file layout."""

import json

import numpy as np
import pytest
from PIL import Image

import groundprune as gp
from groundprune.answers import answer
from groundprune.cli import main
from support.checkpoints import SERVED, save_tiny


@pytest.fixture(scope="module", params=SERVED)
def folder(request, tmp_path_factory):
    return save_tiny(request.param, tmp_path_factory.mktemp("checkpoint") / request.param)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (35, 60, 3), dtype=np.uint8)).save(path)
    return path


def test_model_and_processor_fit_together(folder, photo):
    model, processor = gp.load(folder)
    assert answer(model, processor, Image.open(photo), "the red circle").total_tokens > 0


@pytest.mark.parametrize("pruning", [[], ["--pruner", "random", "--keep", "0.5"]])
def test_ground(folder, photo, tmp_path, capsys, pruning):
    out = tmp_path / "overlay.png"
    code = main(["ground", str(photo), "the red circle", "--model", str(folder), "--json", "-o", str(out), *pruning])
    said = json.loads(capsys.readouterr().out)
    assert code == (0 if said["box"] else 1)
    kept, total = said["visual_tokens"]["kept"], said["visual_tokens"]["total"]
    newlines = {"llava_next": 8, "llava_onevision": 4}.get(folder.name, 0)  # one a row; they always stay
    assert kept == (total if not pruning else newlines + max(1, int((total - newlines) / 2 + 0.5)))
    assert Image.open(out).size[0] > 0
