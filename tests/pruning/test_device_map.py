"""Models that accelerate spreads over devices: weights come and go between the layers."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

import groundprune as gp
from groundprune.exactness.tiny import tiny_inputs, tiny_model
from support.generating import GREEDY
from support.inside import Staged


@pytest.mark.parametrize("offloaded", [False, True], ids=["auto", "half on disk"])
@pytest.mark.parametrize("pruner", [gp.ClsVisual(keep=0.5), Staged(keep=0.4, evict=True)], ids=["before", "inside"])
def test_a_device_map_changes_no_answer(tmp_path, pruner, offloaded):
    model = tiny_model("llava", layers=4)
    model.save_pretrained(tmp_path)
    parts = ["vision_tower", "multi_modal_projector", "language_model.embed_tokens", "language_model.norm",
             "language_model.rotary_emb"]  # fmt: skip
    spread = {"lm_head": "cpu", **{f"model.{part}": "cpu" for part in parts}}
    spread |= {f"model.language_model.layers.{i}": "cpu" if i < 2 else "disk" for i in range(4)}
    other = AutoModelForImageTextToText.from_pretrained(
        tmp_path, device_map=spread if offloaded else "auto", offload_folder=tmp_path / "offload", dtype=torch.float32
    )
    inputs = tiny_inputs(model, [(1, 5, 7), (2, 2, 4)])
    said = []
    for each in (model, other.eval()):
        with gp.prune(each, pruner):
            said.append(each.generate(**inputs, max_new_tokens=5, **GREEDY))
    assert said[0].sequences.equal(said[1].sequences)
    assert all(a.equal(b) for a, b in zip(said[0].logits, said[1].logits, strict=True))
