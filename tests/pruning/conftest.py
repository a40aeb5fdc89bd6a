"""One model and one batch for the contexts' tests; a module that wants others has fixtures of these names itself."""

import pytest

from groundprune.exactness.tiny import tiny_inputs, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model("llava", side=6)


@pytest.fixture(scope="module")
def inputs(model):
    return tiny_inputs(model, [(1, 5, 7), (2, 2, 4), (1, 9, 3)])  # left padded, 36, 72 and 36 visual tokens
