"""What holds with vLLM's first model runner holds with its second; in a process of its own, for vLLM chooses once."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
FILES = ("test_exactness.py", "test_caches.py")


def test_vllm_says_the_same_with_its_second_runner():
    words = ["-q", "-p", "no:cacheprovider", "-p", "support.second_runner"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *(str(TESTS / "serving" / name) for name in FILES)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
