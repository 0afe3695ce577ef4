"""A page of the guide, done as it says: its files are written, its commands typed, what they print compared.

Laws
- A block with `title="…"` is that file, from where it stands on; with `title="…, at its end"` it is added to
  it. A `console` block is a terminal: behind `$ ` what is typed, below it what is printed. `…` stands for
  anything.
- A block that includes a file of the repository shows that file, which is run or tested where it lies.
- `perdure serve` and `perdure dev` run beside the rest, until the page presses Ctrl-C (`^C`), kills them,
  starts another or ends. After a change of its file `dev` is given the time to take it over.
- Every Python block is a file of the page: what is shown is what runs.
- A line is typed to bash. One that is `perdure` with plain arguments, other than `dev`, is forked (warm.py)
  unless the page is to be `executed`.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple
from urllib.request import urlopen

from tests import warm

ROOT = Path(__file__).parents[2]
PORT = "8787"
PATIENCE_S = 60
_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_INCLUDED = re.compile(r'--8<-- "([^":]+)(?::(\w+))?"\n')  # as pymdownx.snippets reads it
_AT_ITS_END = ", at its end"
_CTRL_C = "^C"
_SERVES = re.compile(r"\bperdure (?:serve|dev)\b")
_PLAIN = re.compile(r"perdure(?! dev\b)(?: (?:[\w./:=-]+|'[^']*'))+")  # the shell would only split it


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(*match) for match in _BLOCK.findall(page)]


def commands(console: str) -> Iterator[tuple[str, str]]:
    """What is typed, and what is to be seen then."""
    for each in re.split(r"^(?:\$ |(?=\^C$))", console, flags=re.MULTILINE)[1:]:
        typed, _, printed = each.partition("\n")
        yield typed, printed


def is_like(printed: str, expected: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


class Terminal:
    """Where a page is worked through: a folder, a port, and the server that runs."""

    def __init__(self, folder: Path, *, executed: bool = False) -> None:
        self.folder = folder
        self.executed = executed
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = str(taken.getsockname()[1])
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PERDURE_PORT": self.port,
            "PERDURE_URL": f"http://127.0.0.1:{self.port}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # where perdure is installed alone there are none
        }
        self.server: subprocess.Popen[bytes] | warm.Forked | None = None
        self.starts_again = False  # if it is killed

    def work_through(self, page: str) -> int:
        """Do what a page says; how many commands that were."""
        count = 0
        for block in blocks(page):
            if included := _INCLUDED.fullmatch(block.text):
                text = (ROOT / included[1]).read_text()
                assert included[2] is None or f"[start:{included[2]}]" in text, block
            elif block.title:
                self._write(block.title, block.text.replace(PORT, self.port))
            elif block.language == "console":
                for typed, expected in commands(block.text.replace(PORT, self.port)):
                    count += 1
                    self._do(typed, expected)
            else:
                assert block.language != "python", f"a Python block without a title is not run: {block.text}"
        return count

    def _write(self, title: str, text: str) -> None:
        file = self.folder / title.removesuffix(_AT_ITS_END)
        if title.endswith(_AT_ITS_END):
            text = f"{file.read_text()}\n\n{text}"
        starts = self._starts()
        changed = file.exists() and file.read_text() != text
        file.write_text(text)
        if changed and self.starts_again and file.name == "app.py":
            self._until(lambda: self._starts() > starts)

    def _starts(self) -> int:
        """How often a server has said that it is ready."""
        output = self.folder / "server.txt"
        return output.read_text().count(" is ready at ") if output.exists() else 0

    def _do(self, typed: str, expected: str) -> None:
        if typed == _CTRL_C:
            self.press_ctrl_c()
            return
        if _SERVES.search(typed):
            self.serve(typed)
            return
        with tempfile.TemporaryFile() as output:
            self._start(typed, output).wait(PATIENCE_S)
            output.seek(0)
            printed = output.read().decode().replace("\r\n", "\n")  # of HTTP heads
        assert is_like(printed, expected), f"$ {typed}\n{printed}\ninstead of\n{expected}"
        if typed.startswith("kill ") and not self.starts_again:
            while self._ready():
                time.sleep(0.02)

    def serve(self, typed: str) -> None:
        """Start a server in place of the one there may be, and wait until it is ready."""
        self.stop()
        self.starts_again = "perdure dev" in typed
        starts = self._starts()
        with (self.folder / "server.txt").open("ab") as output:
            self.server = self._start(typed, output)
        self._until(lambda: self._starts() > starts and self._ready())

    def _start(self, typed: str, output: IO[bytes]) -> subprocess.Popen[bytes] | warm.Forked:
        """Start what is typed, in a session of its own: Ctrl-C in a terminal goes to all its processes."""
        if not self.executed and _PLAIN.fullmatch(typed) and warm.can_start(self.environ):
            arguments, file = shlex.split(typed)[1:], output.fileno()
            pid = warm.start(
                arguments,
                stdout=file,
                stderr=file,
                environ=self.environ,
                cwd=self.folder,
                new_session=True,
            )
            return warm.Forked(arguments, pid, None)
        return subprocess.Popen(
            ["bash", "-c", f"exec env {typed}" if _SERVES.search(typed) else typed],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def _until(self, is_so: Callable[[], bool]) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not is_so():
            output = (self.folder / "server.txt").read_text()
            assert self.server is not None
            assert self.server.poll() is None, f"the server has ended: {output}"
            assert time.monotonic() < until_s, f"the server is not ready: {output}"
            time.sleep(0.02)

    def press_ctrl_c(self) -> None:
        """End the server as one does in its terminal; it must end by itself and well."""
        assert self.server is not None
        os.killpg(self.server.pid, signal.SIGINT)
        code = self.server.wait(PATIENCE_S)
        assert code == 0, (self.folder / "server.txt").read_text()
        self.server = None

    def _ready(self) -> bool:
        try:
            with urlopen(f"{self.environ['PERDURE_URL']}/readyz", timeout=PATIENCE_S) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            self.server.wait(PATIENCE_S)
            self.server = None


@contextmanager
def terminal(folder: Path, *, executed: bool = False) -> Iterator[Terminal]:
    opened = Terminal(folder, executed=executed)
    try:
        yield opened
    finally:
        opened.stop()
