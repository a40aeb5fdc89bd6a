"""The server of the page: on this machine alone unless told otherwise, and without a word to anybody else."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundprune.app import page
from groundprune.app.asking import Bench
from groundprune.app.quiet import gradio
from groundprune.app.stored import Shelf
from groundprune.errors import GroundPruneError

HOST = "127.0.0.1"
PORTS = range(7860, 7960)  # the first that is free
LARGEST_UPLOAD = "50mb"
_THREADS = 4  # that wait for the model or read files
# A browser that follows this asks nobody but the server; gradio's own scripts stand in its page and make functions.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Serving:
    """A server that runs in threads of its own. address: for a browser. close: ends it."""

    address: str
    close: Callable[[], None]


def free_port(host: str, port: int | None) -> int:
    """`port`, or the first of PORTS that is free. Raises GroundPruneError where it is taken, or the host not ours."""
    reason = OSError()
    for candidate in PORTS if port is None else [port]:
        try:
            family = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, candidate))
            return candidate
        except OSError as error:
            reason = error
    asked = f"port {port}" if port is not None else f"any of the ports {PORTS[0]} to {PORTS[-1]}"
    raise GroundPruneError(f"cannot listen at {host}, {asked}: {reason.strerror or reason}")


def serve(bench: Bench, host: str = HOST, port: int | None = None, run: str | Path | None = None) -> Serving:
    """Start the server.

    Args:
        bench: the model.
        host: of which of this machine's addresses it listens at.
        port: of it; None = the first of PORTS that is free.
        run: the folder of results that the page opens with.

    Raises:
        GroundPruneError: gradio is missing, the port is taken, or `run` holds no results.
    """
    gradio()
    roots = [Path.cwd()] if run is None else [Path.cwd(), Path(run)]
    shelf = Shelf(*roots)
    if run is not None:
        shelf.open(str(Path(run).resolve()))
    blocks = page.build(bench, shelf, "" if run is None else str(run))
    port = free_port(host, port)
    _, address, _ = blocks.queue(api_open=False, default_concurrency_limit=1).launch(
        server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, inbrowser=False,
        show_error=False, max_threads=_THREADS, max_file_size=LARGEST_UPLOAD, ssr_mode=False, pwa=False,
        mcp_server=False, enable_monitoring=False, footer_links=[], theme=page.theme(), css=page.css(),
        head=page.head(), app_kwargs={"middleware": [_middleware()]},
    )  # fmt: skip
    return Serving(address, lambda: blocks.close(verbose=False))


def _middleware() -> Any:
    from starlette.middleware import Middleware

    return Middleware(_Guarded)


class _Guarded:
    """Every answer says by whom its page may be helped: by nobody else."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        await self._app(scope, receive, sending if scope["type"] == "http" else send)
