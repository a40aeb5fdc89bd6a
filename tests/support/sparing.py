"""What says little that others do not is left to `make test-vllm-all`."""

import pytest


def sparing(values, like_another):
    """The values as params of a test, tuples as several; `like_another` are marked `thorough`."""
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=pytest.mark.thorough if value in like_another else (),
        )
        for value in values
    ]
