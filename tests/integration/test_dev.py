"""`perdure dev`: what it does with changed code, with broken code, and with servers that die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.kafka import free_ports
from tests.process import COMMAND, clean_environ

from perdure.api.cli.reload import FALLS


class Dev:
    """`perdure dev` with its output read line by line."""

    def __init__(self, app: Path, data: Path, port: int | None) -> None:
        command = [*COMMAND, "dev", str(app), "--data", str(data)]
        command += [] if port is None else ["--port", str(port)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_environ()
        )

    def line_with(self, text: str) -> str:
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if text in line:
                return line
            if "waiting for a change" in line:
                break  # it says nothing more by itself
        raise AssertionError(f"no line with {text!r} from perdure dev: {said}")

    def object_url(self) -> str:
        return self.line_with("/objects/Counter/NAME").strip().removesuffix("NAME") + "a"


@contextlib.contextmanager
def dev(app: Path, data: Path, port: int | None = 0) -> Iterator[Dev]:
    running = Dev(app, data, port)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def test_dev_serves_changed_code_on_kept_state(counter: Path, tmp_path: Path) -> None:
    """A saved change is served with the state kept; a broken one is reported, and
    the previous code stays in service.
    """
    app = tmp_path / "app" / "counter.py"
    app.parent.mkdir()
    text = counter.read_text()
    app.write_text(text)
    with dev(app, tmp_path / "data") as running:
        assert httpx.post(url := running.object_url()).json() == {"count": 1}
        app.write_text(text.replace("count += 1", "count += 10"))
        assert httpx.post(running.object_url()).json() == {"count": 11}
        app.write_text("1 / 0\n")
        assert f"{app}:1: ZeroDivisionError" in running.line_with("config-error")
        running.line_with("the previous code is served until this is corrected")
        assert httpx.post(url).json() == {"count": 21}
        app.write_text(text)
        assert httpx.post(running.object_url()).json() == {"count": 22}
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 0


def test_nobody_hangs_while_there_is_no_server(counter: Path, tmp_path: Path) -> None:
    """An app that cannot be started is answered for with 503, and what was asked meanwhile is never done."""
    text, name = counter.read_text(), 'name = "counter"\n'
    (counter.parent / "perdure.toml").write_text(config := f'main = "{counter.name}"\n{name}')
    counter.write_text("1 / 0\n")
    with dev(counter, tmp_path / "data", port := free_ports(1)[0]) as running:
        url = f"http://127.0.0.1:{port}/objects/Counter/a"
        running.line_with("waiting for a change")
        answers = [httpx.post(url), httpx.post(url, content=b"x" * 1_000_000), httpx.head(url)]
        assert [(each.status_code, each.headers["retry-after"]) for each in answers] == [(503, "1")] * 3
        assert answers[0].json()["type"] == "urn:perdure:problem:unavailable"
        assert "the terminal of `perdure dev` says why" in answers[1].json()["detail"]
        counter.write_text(text)
        assert httpx.post(running.object_url()).json() == {"count": 1}
        (counter.parent / "perdure.toml").write_text(config.replace(name, 'name = "other"\n'))
        running.line_with("code changed")  # it can be loaded, and not be started: the data are another app's
        running.line_with("waiting for a change")
        assert httpx.post(url).status_code == 503
        (counter.parent / "perdure.toml").write_text(config)
        assert httpx.post(running.object_url()).json() == {"count": 2}


def test_dev_starts_a_killed_server_again(counter: Path, tmp_path: Path) -> None:
    """At once, on the state of before; one that is killed again and again waits for a change."""
    app = tmp_path / "app" / "counter.py"
    app.parent.mkdir()
    app.write_text(counter.read_text())
    lock = tmp_path / "data" / "LOCK"
    with dev(app, tmp_path / "data") as running:
        url = running.object_url()
        for count in range(1, FALLS + 1):
            assert httpx.post(url, timeout=30).json() == {"count": count}
            os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
            running.line_with("SIGKILL has ended the server: starting it again")
        assert httpx.get(running.object_url(), timeout=30).json() == {"count": FALLS}
        os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
        running.line_with("waiting for a change")


SLOW = """
import asyncio, time
from pathlib import Path

from perdure import DurableObject

HERE = Path(__file__).parent
NEW = False
while NEW and not (HERE / "load").exists():
    (HERE / "loading").touch()
    time.sleep(0.01)


class Slow(DurableObject):
    async def add(self, wait: bool) -> list:
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        if wait:
            (HERE / "begun").touch()
            while not (HERE / "go").exists():
                await asyncio.sleep(0.01)
        return [count, NEW]
"""


def test_requests_in_flight_are_answered_over_a_reload(tmp_path: Path) -> None:
    """While the new code is loaded the old one goes on; what runs then is ended by
    it, and what comes after waits.
    """
    app = tmp_path / "app" / "slow.py"
    app.parent.mkdir()
    app.write_text(SLOW)
    with dev(app, tmp_path / "data") as running, ThreadPoolExecutor() as threads:
        url = running.line_with("/rpc/Slow/NAME").strip().replace("NAME/METHOD", "a/add")
        app.write_text(SLOW.replace("NEW = False", "NEW = True"))
        until_there(app.parent / "loading", running.process.poll)
        assert httpx.post(url, json={"args": [False]}, timeout=30).json() == {"result": [1, False]}
        first = threads.submit(httpx.post, url, json={"args": [True]}, timeout=30)
        until_there(app.parent / "begun", first)
        (app.parent / "load").touch()
        running.line_with("requests in flight")
        (app.parent / "go").touch()
        assert first.result().json() == {"result": [2, False]}
        answers = [[2, False]]
        while not answers[-1][1]:  # the old one may take a few more before it hears that it is to end
            answers.append(httpx.post(url, json={"args": [False]}, timeout=30).json()["result"])
        assert [count for count, _ in answers] == list(range(2, len(answers) + 2))


def until_there(file: Path, ended: Future[Any] | Callable[[], int | None]) -> None:
    """Wait for a file of a process or a request that goes on."""
    while not file.exists():
        if isinstance(ended, Future):
            assert not ended.done(), ended.result()
        else:
            assert ended() is None
        time.sleep(0.01)


def test_code_that_cannot_be_parsed_is_told_while_the_old_is_served(counter: Path, tmp_path: Path) -> None:
    """The line and its text are shown; the server answers all along, and the mended code takes over."""
    text = counter.read_text()
    with dev(counter, tmp_path / "data") as running:
        url = running.object_url()
        counter.write_text(text + "\ndef broken(:\n")
        line = text.count("\n") + 2
        running.line_with(f"config-error: {counter}:{line}: SyntaxError")
        running.line_with(f'File "{counter}", line {line}')
        running.line_with("def broken(:")
        running.line_with("the previous code is served until this is corrected")
        assert httpx.post(url).json() == {"count": 1}
        counter.write_text(text.replace("count += 1", "count += 10"))
        assert running.object_url() == url, "the port was to be any free one, and stays"
        assert httpx.post(url).json() == {"count": 11}


def test_an_error_at_import_is_shown_with_its_lines(counter: Path, tmp_path: Path) -> None:
    """From the app's main module to where it arose, and none of perdure's own."""
    (counter.parent / "part.py").write_text("def made():\n    return {}['nope']\n\n\nmade()\n")
    counter.write_text("import part\n")
    with dev(counter, tmp_path / "data") as running:
        assert f"{counter.parent}/part.py:2: KeyError: 'nope'" in running.line_with("config-error")
        shown = [running.line_with("  ") for _ in range(6)]
    places = ((f"{counter}:1", "import part"), (f"{counter.parent}/part.py:5", "made()"))
    expected = [*places, (f"{counter.parent}/part.py:2", "return {}['nope']")]
    assert shown == [line for place, code in expected for line in (f"  {place}\n", f"    {code}\n")]


def test_the_server_of_dev_does_not_outlive_it(counter: Path, tmp_path: Path) -> None:
    """Kill `perdure dev` hard, and the data directory is free again."""
    with dev(counter, tmp_path / "data") as running:
        url = running.object_url()
        running.process.kill()
        assert running.process.stdout is not None
        running.process.stdout.read()  # until the server has closed its end
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


TAKES = """
import socket

LISTENER = socket.create_server(("127.0.0.1", %d))

"""
HANGS = """
import time
from pathlib import Path

(Path(__file__).parent / "loading").touch()
while not (Path(__file__).parent / "load").exists():
    time.sleep(0.01)

"""
LEAVES = """
import os, signal
from pathlib import Path

if (child := os.fork()) == 0:
    signal.pause()
(Path(__file__).parent / "left").write_text(str(child))
raise RuntimeError("no more")
"""


def test_an_app_that_takes_a_port_while_it_is_loaded_is_reloaded(counter: Path, tmp_path: Path) -> None:
    """The previous server has it: that one ends first, and its state is there for the new one."""
    text = counter.read_text() + TAKES % free_ports(1)[0]
    counter.write_text(text)
    with dev(counter, tmp_path / "data") as running:
        assert httpx.post(running.object_url()).json() == {"count": 1}
        counter.write_text(text.replace("count += 1", "count += 10"))
        running.line_with("stopping it and trying once more")
        assert httpx.post(running.object_url()).json() == {"count": 11}


def test_a_server_that_dies_while_the_new_code_is_loaded_is_not_said_to_serve(
    counter: Path, tmp_path: Path
) -> None:
    """And the new code serves once it is loaded."""
    text, lock = counter.read_text(), tmp_path / "data" / "LOCK"
    with dev(counter, tmp_path / "data") as running:
        assert httpx.post(running.object_url()).json() == {"count": 1}
        counter.write_text(text + HANGS)
        until_there(counter.parent / "loading", running.process.poll)
        os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
        (counter.parent / "load").touch()
        assert httpx.post(running.object_url()).json() == {"count": 2}


def test_a_server_that_hangs_while_it_is_loaded_does_not_outlive_dev(counter: Path, tmp_path: Path) -> None:
    """Kill `perdure dev` hard: whatever its child does, it ends."""
    counter.write_text(counter.read_text() + HANGS)
    with dev(counter, tmp_path / "data") as running:
        until_there(counter.parent / "loading", running.process.poll)
        running.process.kill()
        assert running.process.stdout is not None
        running.process.stdout.read()  # until the child has closed its end


def test_the_line_ends_the_server_with_its_parent(counter: Path, tmp_path: Path) -> None:
    """When its other end closes, however its holder died, the server drains and goes, with 0."""
    ours, theirs = socket.socketpair()
    command = [*COMMAND, "serve", str(counter), "--data", str(tmp_path / "data"), "--port", "0", "--json"]
    with subprocess.Popen(
        [*command, "--lifeline-fd", str(theirs.fileno())],
        pass_fds=(theirs.fileno(),),
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environ(),
    ) as process:
        theirs.close()
        assert ours.recv(1) == b"\n", "it has loaded the app"
        assert not (tmp_path / "data").exists(), "nothing is opened before it is its turn"
        ours.send(b"\n")
        assert process.stdout is not None
        assert (
            httpx.post(f"{json.loads(process.stdout.readline())['url']}/objects/Counter/a").status_code == 200
        )
        assert ours.recv(1) == b"\n", "it serves"
        ours.close()
        assert process.wait(30) == 0


def test_what_a_broken_app_leaves_behind_holds_nobody_up(counter: Path, tmp_path: Path) -> None:
    """A process that it has started, and that has all it had open, is not waited for."""
    text = counter.read_text()
    with dev(counter, tmp_path / "data") as running:
        assert httpx.post(url := running.object_url()).json() == {"count": 1}
        counter.write_text(LEAVES)
        running.line_with("the previous code is served until this is corrected")
        assert httpx.post(url).json() == {"count": 2}
        counter.write_text(text)
        assert httpx.post(running.object_url()).json() == {"count": 3}
        os.kill(int((counter.parent / "left").read_text()), signal.SIGKILL)


def test_an_address_that_is_another_s_is_told_and_dev_stays(counter: Path, tmp_path: Path) -> None:
    """The previous server stays at its own address."""
    config = counter.parent / "perdure.toml"
    config.write_text(f'main = "{counter.name}"\nport = 0\n')
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        dev(counter.parent, tmp_path / "data", None) as running,
    ):
        assert httpx.post(url := running.object_url()).json() == {"count": 1}
        config.write_text(f'main = "{counter.name}"\nport = {other.getsockname()[1]}\n')
        running.line_with("is in use by another process")
        assert httpx.post(url).json() == {"count": 2}
        config.write_text(f'main = "{counter.name}"\nport = {free_ports(1)[0]}\n')
        assert httpx.post(running.object_url()).json() == {"count": 3}
