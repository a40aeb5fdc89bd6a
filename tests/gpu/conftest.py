import pytest
import torch

ATTENTIONS = ["sdpa", "flash_attention_2"]


@pytest.fixture(autouse=True)
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch finds no CUDA device")


@pytest.fixture(params=ATTENTIONS)
def attention(request):
    if request.param == "flash_attention_2":
        pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    return request.param
