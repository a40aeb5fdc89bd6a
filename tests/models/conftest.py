"""The golden checkpoints, converted once, and their files to be damaged."""

import shutil

import pytest

from groundprune.models.convert import convert_minigpt_v2, convert_shikra
from support.originals import MINIGPT, SHIKRA, SMALL, Golden


@pytest.fixture(scope="session")
def shikra(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shikra") / "converted"
    convert_shikra(SHIKRA / "delta", SHIKRA / "llama", SHIKRA / "clip", folder)
    return Golden.load(folder, SHIKRA)


@pytest.fixture(scope="session")
def minigpt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minigpt") / "converted"
    convert_minigpt_v2(
        MINIGPT / "minigptv2_checkpoint.pth", MINIGPT / "eva_vit_g.pth", MINIGPT / "llama", folder, **SMALL
    )
    return Golden.load(folder, MINIGPT)


@pytest.fixture
def files(tmp_path):
    """A copy of all golden inputs, to be damaged."""
    shutil.copytree(SHIKRA, tmp_path / "shikra")
    shutil.copytree(MINIGPT, tmp_path / "minigpt")
    return tmp_path
