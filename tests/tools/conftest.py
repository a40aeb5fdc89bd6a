import pytest

from support.smol import made_pictures, tiny_words


@pytest.fixture(scope="module")
def pictures():
    return made_pictures()


@pytest.fixture(scope="module")
def words():
    return tiny_words()
