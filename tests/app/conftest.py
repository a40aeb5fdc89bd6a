import pytest

import groundprune as gp
from groundprune.app.asking import Bench
from groundprune.evaluation import compare


@pytest.fixture(scope="session")
def pocket():
    return gp.load("pocket", device="cpu")


@pytest.fixture
def bench(pocket):
    """Nothing is remembered yet."""
    return Bench(*pocket, name="pocket")


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("below") / "run"
    compare(out=folder, scenes=8, pruners=["cls-visual", "random"], keeps=["0.5", "0.25"], progress=False)
    return folder
