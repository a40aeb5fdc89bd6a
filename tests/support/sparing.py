"""What says little that others do not is left to `make test-vllm-all`."""

import pytest

# Families whose positions the same code places as those of one of the others.
PLACED_ALIKE = ["llava_next", "llava_onevision", "internvl", "mistral3", "qwen2_vl", "smolvlm"]


def sparing(values, like_another):
    """The values as params of a test, tuples as several; `like_another` are marked `thorough`."""
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=pytest.mark.thorough if value in like_another else (),
        )
        for value in values
    ]
