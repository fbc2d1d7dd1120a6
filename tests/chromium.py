"""A headless Chromium, driven through its DevTools protocol over a pipe: no driver, no socket, no package."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--remote-debugging-pipe",
]
SECONDS = 60  # to wait for an answer, on a busy machine


def find() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tab:
    """One page at a time; everything that it complained about, and what it asked the network for."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._id, self._rest, self._session = commands, answers, 0, b"", ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        self._id += 1
        message = {"id": self._id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, address: str, width: int = 1000, height: int = 900, dark: bool = False) -> None:
        self.complaints, self.requests, self._loaded = [], [], False
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=0)
        self.call("Page.navigate", url=address)
        while not self._loaded:
            self._read()

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height."""
        script = f"(r => [r.left, r.top, r.width, r.height])(document.querySelector({selector!r}).getBoundingClientRect())"
        left, top, width, height = self.run(script)
        return left, top, width, height

    def move(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        left, top, width, height = self.box(selector)
        for kind in ("mousePressed", "mouseReleased"):
            at = {"x": left + width / 2, "y": top + height / 2}
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def press(self, key: str) -> None:
        codes = {
            "n": 78,
            "p": 80,
            "Tab": 9,
            "Escape": 27,
            "End": 35,
            "Home": 36,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
        }
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def screenshot(self) -> np.ndarray[Any, Any]:
        """``[height, width, 3]``."""
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            if not select.select([self._answers], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium did not answer in {SECONDS} seconds")
            more = os.read(self._answers, 1 << 16)
            if not more:
                raise RuntimeError("Chromium ended")
            self._rest += more
        line, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        event, found = message.get("method"), message.get("params", {})
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])
        elif event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Page.javascriptDialogOpening"):
            self.complaints.append(json.dumps(found))
        return message


def settle(tab: Tab) -> None:
    """Wait until what was asked for is on the screen."""
    look = "document.body.dataset.ready === 'true' ? requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    tab.run(f"new Promise(done => {{ const look = () => {look} : setTimeout(look, 5); look(); }})")


@contextmanager
def browser() -> Iterator[Tab]:
    path = find()
    assert path is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        ours, theirs = _pipes()
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        command = ["bash", "-c", f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}', "bash", path, *FLAGS, f"--user-data-dir={profile}"]
        process = subprocess.Popen(command, pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for descriptor in theirs:
            os.close(descriptor)
        try:
            yield Tab(*ours)
        finally:
            process.kill()
            process.wait()
            for descriptor in ours:
                os.close(descriptor)


def _pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    """Where we write commands and read answers, and Chromium's two ends, which are no descriptor of its own."""
    (read_commands, write_commands), (read_answers, write_answers) = os.pipe(), os.pipe()
    theirs = fcntl.fcntl(read_commands, fcntl.F_DUPFD, 50), fcntl.fcntl(write_answers, fcntl.F_DUPFD, 50)
    os.close(read_commands)
    os.close(write_answers)
    return (write_commands, read_answers), theirs
