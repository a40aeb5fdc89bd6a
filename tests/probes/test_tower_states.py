"""The signals that only some methods read, against what the tower itself gives."""

import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
import torch

from groundprune.exactness.tiny import tiny_inputs, tiny_model
from groundprune.families import family_of
from groundprune.probes.tower import encode, record_of, recordable
from groundprune.signals import TOWER_CLS, Need
from support.closeness import assert_near


@pytest.fixture(scope="module")
def model():
    return tiny_model("llava", side=6)


@pytest.fixture(scope="module")
def pixels(model):
    return tiny_inputs(model, [(2, 2, 2)])["pixel_values"]


@pytest.fixture(scope="module")
def states(model, pixels):
    with torch.no_grad():
        return model.model.vision_tower(pixels, output_hidden_states=True).hidden_states


def record(model, pixels, *needs):
    with torch.no_grad():
        pixels = {"pixel_values": pixels}
        return record_of(encode(model.model, family_of(model.config), "image", pixels, recordable(needs)))


def test_states_are_those_of_the_thread_that_records(model, pixels, states):
    """Another one runs the stock tower, on other pixels, before the recorded pass is over."""
    need, tower = Need("tower_hidden", 1), model.model.vision_tower
    here, other = threading.get_ident(), pixels.flip(0) * 2

    def interrupt(*_):
        if threading.get_ident() == here:
            pool.submit(torch.no_grad()(tower), other).result()

    with ThreadPoolExecutor(1) as pool:
        hook = tower.encoder.register_forward_hook(interrupt)
        try:
            found = record(model, pixels, need).values[need]
        finally:
            hook.remove()
    assert_near(torch.stack(found), states[2][:, 1:])


def test_the_joint_cls_row_is_the_softmax_of_all_heads_as_one(model, pixels, states):
    need = Need("tower_attention", -1, "cls-joint")
    found = record(model, pixels, need).values[need]
    layer = model.model.vision_tower.encoder.layers[-1]
    x = layer.layer_norm1(states[2])
    q, k = layer.self_attn.q_proj(x[:, :1]), layer.self_attn.k_proj(x)
    wanted = (q @ k.transpose(1, 2) * 32**-0.5).softmax(-1).transpose(1, 2)
    assert_near(torch.stack(found), wanted[:, 1:])  # of the patches


def test_the_cls_state_is_recorded_alone(model, pixels, states):
    found = record(model, pixels, TOWER_CLS)
    assert_near(torch.stack(found.values[TOWER_CLS]), states[-2][:, :1])
    assert [value.shape for value in found.select([1]).values[TOWER_CLS]] == [(1, 32)]


@pytest.mark.parametrize(
    ("share", "state"), [(Fraction(1), 3), (Fraction(2, 3), 2), (Fraction(9, 24), 1), (Fraction(1, 100), 1)]
)
def test_a_fraction_names_the_last_layer_of_that_share_of_the_depth(model, pixels, states, share, state):
    need = Need("tower_hidden", share)
    assert_near(torch.stack(record(model, pixels, need).values[need]), states[state][:, 1:])
