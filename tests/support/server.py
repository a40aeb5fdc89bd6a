"""`groundprune serve pocket` as a user starts it, and requests to it."""

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
from PIL import Image

PATIENCE = 400  # seconds until a server is there


@contextlib.contextmanager
def serving(folder, *options):
    """(process, address, log) of `groundprune serve pocket`. options: pruner and budget, and others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "groundprune", "serve", "pocket", *options,
        "--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--distributed-executor-backend", "uni",
    ]  # fmt: skip
    environment = os.environ | {"XDG_CACHE_HOME": str(folder), "VLLM_LOGGING_LEVEL": "INFO"}
    del environment["VLLM_ENABLE_V1_MULTIPROCESSING"]
    log = folder / "log"
    with log.open("w") as written:
        process = subprocess.Popen(command, env=environment, stdout=written, stderr=subprocess.STDOUT)
    try:
        address, end = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
        while not is_there(address):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end
            time.sleep(0.5)
        yield process, address, log
    finally:
        _kill(process.pid)


def _kill(pid):
    """With its engine, which outlives a server that is killed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        server = psutil.Process(pid)
        for each in [server, *server.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def is_there(address):
    try:
        return urllib.request.urlopen(f"{address}/health", timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


def png(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def body(image, text, ours=None, **fields):
    """Of a chat about an image (or about what is said to be one, in bytes). ours: the request's own settings."""
    parts = [{"type": "text", "text": text}]
    if image is not None:
        content = png(image) if isinstance(image, Image.Image) else image
        url = "data:image/png;base64," + base64.b64encode(content).decode()
        parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
    given = {"model": "pocket", "temperature": 0, "messages": [{"role": "user", "content": parts}], **fields}
    return given if ours is None else {**given, "mm_processor_kwargs": {"groundprune": ours}}


def post(address, given, timeout=60):
    """(status, answer) of a chat."""
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(given).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def chat(address, image, text, ours=None):
    status, said = post(address, body(image, text, ours))
    assert status == 200, said
    return said


def said_text(answer):
    return answer["choices"][0]["message"]["content"].strip()
