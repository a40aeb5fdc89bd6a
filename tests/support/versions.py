"""What stock code of older transformers does otherwise, so that it is no oracle there."""

import pytest
import transformers
from packaging.version import Version

from groundprune.pruning.generation import CUTS_IMAGES

needs_chunks = pytest.mark.skipif(not CUTS_IMAGES, reason="this transformers cuts prompts, but not what was encoded")
OLD = Version(transformers.__version__) < Version("5.23")
# Its Qwen3.5 makes other ids for rows that `generate` repeats, for beams and samples, than for one.
REPEATS_WRONGLY = ("qwen3_5",) if OLD else ()
needs_later_images = pytest.mark.skipif(
    OLD, reason="stock code of this transformers gives images of later turns the ids or masks of words"
)
