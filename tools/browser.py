"""Chromium by its WebDriver, as far as this repository needs it: Debian's chromium and chromium-driver."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groundprune.errors import GroundPruneError

_ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
]  # fmt: skip
_STARTS = 100  # tenths of a second


def there() -> bool:
    """Whether a browser and its driver are on the PATH."""
    return None not in _programs()


def _programs() -> tuple[str | None, str | None]:
    return shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """A window. port: of the driver. profile: an empty folder."""

    def __init__(self, port: int, profile: Path):
        self.root = f"http://127.0.0.1:{port}"
        chrome = {"binary": _programs()[1], "args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
        wanted = {"alwaysMatch": {"goog:chromeOptions": chrome}}
        session = self._call("POST", "/session", {"capabilities": wanted})
        self.version: str = session["capabilities"]["browserVersion"]
        self.root += f"/session/{session['sessionId']}"

    def open(self, page: Path | str, width: int, height: int = 900, scale: float = 1) -> None:
        """A page, a file or an address, in a window of width x height CSS pixels, scale device pixels each."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.cdp("Emulation.setDeviceMetricsOverride", **size)
        self._call("POST", "/url", {"url": page if isinstance(page, str) else page.as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """whole: the page, also below the window."""
        found = self.cdp("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def wait(self, script: str, *arguments: Any, seconds: float = 20) -> Any:
        """What a script returns, once that is true.

        Raises GroundPruneError where it is not in time.
        """
        until = time.monotonic() + seconds
        while not (found := self.run(script, *arguments)):
            if time.monotonic() > until:
                raise GroundPruneError(f"after {seconds:g} seconds it is not so: {script} {arguments}")
            time.sleep(0.05)
        return found

    def press(self, selector: str, *moves: tuple[float, float]) -> None:
        """Click in the middle of an element, or drag from there by `moves`, in CSS pixels from it."""
        x, y = self.wait(
            "const e = document.querySelector(arguments[0]); if (!e) return null;"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const b = e.getBoundingClientRect();"
            "return b.width && [b.left + b.width / 2, b.top + b.height / 2]",
            selector,
        )
        end = (x, y)
        self._mouse("mouseMoved", x, y)
        self._mouse("mousePressed", x, y)
        for right, down in moves:
            end = (x + right, y + down)
            self._mouse("mouseMoved", *end)
        self._mouse("mouseReleased", *end)

    def _mouse(self, kind: str, x: float, y: float) -> None:
        held = {} if kind == "mouseReleased" else {"buttons": 1 if kind == "mousePressed" else 0}
        self.cdp("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1, **held)

    def type(self, selector: str, text: str) -> None:
        """Replace what stands in a field, and press Enter."""
        self.press(selector)
        self.run("document.querySelector(arguments[0]).select()", selector)
        self.cdp("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.cdp("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")

    def upload(self, selector: str, path: Path) -> None:
        """Give a file to an `<input type=file>`, which may be hidden."""
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        self._call("POST", f"/element/{next(iter(found.values()))}/value", {"text": str(path)})

    def quit(self) -> None:
        self._call("DELETE", "")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["value"]


@contextlib.contextmanager
def browser_of(profile: Path) -> Iterator[Browser]:
    """A driver and a window of it, both ended afterwards. profile: an empty folder.

    Raises GroundPruneError where there is no browser.
    """
    driver_path, browser_path = _programs()
    if driver_path is None or browser_path is None:
        raise GroundPruneError("needs chromium and chromedriver on the PATH (Debian: chromium, chromium-driver)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([driver_path, f"--port={port}"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(_STARTS):
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/status")
                break
            time.sleep(0.1)
        browser = Browser(port, profile)
        try:
            yield browser
        finally:
            browser.quit()
    finally:
        driver.terminate()
        driver.wait()
