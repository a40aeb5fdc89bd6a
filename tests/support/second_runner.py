"""A plugin of pytest: vLLM's engines run with its second model runner, on a CPU.

That runner prepares its batches with Triton's kernels, and vLLM takes it on a CPU where Triton has a backend for one,
which PyPI's has not. Triton's interpreter stands in: every kernel is vLLM's own, on NumPy. To be loaded before vLLM:
`python -m pytest -p support.second_runner`.
"""

import os
from types import SimpleNamespace

os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}

import pytest
from triton.backends import backends

backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True))


@pytest.fixture(autouse=True)
def second_runner(monkeypatch):
    """Fails where a test ran no batch with it."""
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner

    batches, stock = [], GPUModelRunner.execute_model

    def execute_model(self, *args, **kwargs):
        batches.append(args)
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(GPUModelRunner, "execute_model", execute_model)
    yield
    assert batches
