"""Chromium, driven by its own protocol, for tests of pages for people; and axe-core, which checks them.

Debian's `chromium` is used as it is. Without it, or without npm for axe-core, a test is skipped, or fails
under `PERDURE_REQUIRE_CLIENTS=1`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.kafka_clients import CACHE

AXE = "axe-core@4.11.0"
PATIENCE_S = 60.0
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0")


def _missing(what: str) -> None:
    if os.environ.get("PERDURE_REQUIRE_CLIENTS") == "1":
        pytest.fail(f"PERDURE_REQUIRE_CLIENTS=1, but there is no {what}")
    pytest.skip(f"no {what}")


def axe_source() -> str:
    """The script of axe-core, fetched once by npm."""
    place = CACHE / AXE.replace("@", "-")
    script = place / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        if shutil.which("npm") is None:
            _missing("npm on the PATH")
        place.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", ".", AXE]
        subprocess.run(command, cwd=place, check=True, timeout=PATIENCE_S * 5)
    return script.read_text()


class Tab:
    """A tab of the browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.errors: list[str] = []  # what pages have logged as errors, violations of their policy too
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> Any:
        """The result of a command of the protocol."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(PATIENCE_S))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"]["text"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"]))

    def go(self, url: str) -> None:
        """Open a page, and wait until it is complete."""
        assert "errorText" not in self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page; of a promise what it becomes."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait until the expression is true in the page, whichever page that is by then; returns it."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):  # a page that is being left
                if value := self.run(script):
                    return value
            time.sleep(0.02)
        raise AssertionError(f"{script} is not true of {self.run('location.href')}: {self.text()[:2000]}")

    def text(self) -> str:
        """The text of the page, as a person sees it."""
        text: str = self.run("document.body.innerText")
        return text

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = {"ArrowLeft": 37, "Home": 36, "Enter": 13, "Tab": 9}[key]
        more = {"text": "\r"} if key == "Enter" else {}
        for type_ in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent", type=type_, key=key, code=key, windowsVirtualKeyCode=code, **more
            )

    def type(self, text: str) -> None:
        """Type a text where the focus is."""
        self.send("Input.insertText", text=text)

    def scheme(self, name: str) -> None:
        """Prefer `light` or `dark` pages."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def violations(self, axe: str) -> list[Any]:
        """What axe-core finds in the page, by the rules of WCAG 2 A and AA and its own best practices."""
        self.run(axe + "; true")
        found = self.run(
            "axe.run().then(found => found.violations.map(v => [v.id, v.nodes.map(n => n.html)]))"
        )
        assert type(found) is list
        return found


@contextlib.contextmanager
def browser() -> Iterator[Tab]:
    """A browser of its own with one tab."""
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        _missing("Chromium on the PATH")
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port_file, deadline = Path(profile) / "DevToolsActivePort", time.monotonic() + PATIENCE_S
            while not (port_file.exists() and port_file.read_text().count("\n")):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            port = port_file.read_text().split("\n")[0]
            pages = httpx.get(f"http://127.0.0.1:{port}/json").json()
            address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            with connect(address, max_size=None, proxy=None) as connection:
                yield Tab(connection)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
