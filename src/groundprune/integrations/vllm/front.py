"""What an API server of a pruned model adds to vLLM's: a page about it, and requests with settings of their own.

`vllm serve ... --middleware groundprune.integrations.vllm.front.Front`, which `groundprune serve` does.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from groundprune.integrations.vllm.counters import counted
from groundprune.integrations.vllm.requests import EngineLimits
from groundprune.integrations.vllm.settings import KEY, Settings
from groundprune.integrations.vllm.versions import check_version
from groundprune.version import __version__

PATH = f"/{KEY}"


class Front:
    """ASGI middleware: answers GET /groundprune; vLLM answers all else."""

    def __init__(self, app: Any):
        self.app = app
        _let_ours_through()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "GET" and _path(scope) == PATH:
            await JSONResponse(page(scope["app"].state.vllm_config.model_config))(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _path(scope: Mapping[str, Any]) -> str:
    """Behind --root-path, which not every proxy takes off."""
    return scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")


def page(model_config: Any) -> dict[str, Any]:
    """What the server prunes by, and what it has pruned; for JSON."""
    config = model_config.hf_config
    return {
        "version": __version__,
        "vllm": check_version(),
        "model": model_config.served_model_name,
        **Settings.read(config).public,
        "max_model_len": model_config.max_model_len,
        "max_positions": EngineLimits.read(config).reach,
        "visual_tokens": counted(),
    }


def _let_ours_through() -> None:
    """vLLM takes `mm_processor_kwargs` from trusted clients alone; ours can only make an image cost less."""
    from vllm.renderers import online_renderer

    stock = online_renderer.validate_request_mm_kwargs
    if hasattr(stock, "__wrapped__"):
        return

    @functools.wraps(stock)
    def validate(*, mm_processor_kwargs: Mapping[str, Any] | None, **others: Any) -> None:
        rest = {name: value for name, value in (mm_processor_kwargs or {}).items() if name != KEY}
        stock(mm_processor_kwargs=rest or None, **others)

    online_renderer.validate_request_mm_kwargs = validate
