"""Conversions of a copy of the golden files (the fixture `files`), which tests damage before."""

import pytest
from safetensors.torch import load_file

import groundprune as gp
from groundprune.models.convert import convert_minigpt_v2, convert_shikra
from support.originals import SMALL


def shikra_into(files, target="out", **options):
    folder = files / "shikra"
    return convert_shikra(folder / "delta", folder / "llama", folder / "clip", files / target, **options)


def minigpt_into(files, target="out", **options):
    folder = files / "minigpt"
    paths = (folder / "minigptv2_checkpoint.pth", folder / "eva_vit_g.pth", folder / "llama", files / target)
    return convert_minigpt_v2(*paths, **{**SMALL, **options})


def weights(folder):
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def refused(files, convert, says):
    with pytest.raises(gp.GroundPruneError, match=says) as refusal:
        convert(files)
    assert "\n" not in str(refusal.value)
    assert not (files / "out").exists()
    assert not (files / "out.partial").exists()
