"""What holds with vLLM's first model runner holds with its second; in a process of its own, for vLLM chooses once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CASES = [
    *(f"test_exactness.py::test_vllm_says_what_transformers_says[{family}-cls-visual-0.5]"
      for family in ("llava", "llava_next", "qwen2_5_vl", "qwen3_vl")),
    "test_exactness.py::test_vllm_says_what_transformers_says[llava-spatial-0.5]",
    "test_exactness.py::test_positions_are_always_in_the_same_place",
    "test_exactness.py::test_a_renumbered_engine_says_something_else[qwen2_5_vl]",
    "test_caches.py::test_a_prefix_hit_may_end_inside_an_image[llava]",
    "test_caches.py::test_a_chunk_of_a_prefill_may_end_inside_an_image[qwen2_5_vl]",
    "test_caches.py::test_a_preempted_request_goes_on_where_it_was[llava]",
]  # fmt: skip


@pytest.mark.thorough
def test_vllm_says_the_same_with_its_second_runner():
    words = ["-q", "-p", "no:cacheprovider", "-p", "support.second_runner"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *(str(TESTS / "serving" / case) for case in CASES)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
