"""vLLM on a CPU, in this process and without compilation; the tests run where it is installed (`make test-vllm`)."""

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import pytest

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "2",
}  # fmt: skip

try:
    version("vllm-cpu")
except PackageNotFoundError:
    collect_ignore_glob = ["test_*.py"]  # and leave the environment of the other tests alone
else:
    os.environ |= SETTINGS


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """By family: its folder, the model and the processor that transformers makes of it. options: of its config."""
    import groundprune as gp
    from groundprune.families import families
    from support.engines import OPTIONS, save_checkpoint

    @cache
    def of(family, **options):
        config = families()[family].tiny_config(**(OPTIONS.get(family, {}) | options))
        folder = save_checkpoint(family, tmp_path_factory.mktemp(family), config)
        return folder, *gp.load(folder)

    return of
