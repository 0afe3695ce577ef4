"""How a node ends: whatever fails on the way, all the rest is closed, and each failure is named."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.process import STOP_S, clean_environ

from perdure import DurableObject
from perdure.api import node as node_module
from perdure.api.node import Node
from perdure.objects.registry import Registry
from perdure.schemas.config import Config
from perdure.schemas.errors import OperatorError, PerdureError, StorageFailed
from perdure.streams.teardown import Closing, to_its_end
from perdure.streams.turns.ports import OwnerState

APP = "import perdure\n\nclass Thing(perdure.DurableObject):\n    async def note(self) -> int:\n        return 1\n"
CLOSERS = (
    "the data directory",
    "the crash marker",
    "the word of the crash marker",
    "the watch for coroutines that are never awaited",
    "the log",
    "the store",
    "the HTTP client of perdure.fetch",
    "the data of other apps",
    "the rebuild helpers",
    "the watchdog",
    "the ownership of partition 0",
    "the ownership of partition 1",
    "the node's tasks",
    "the calls between objects",
    "the gateway",
)


class Thing(DurableObject):
    async def note(self) -> int:
        return 1


def node_in(path: Path) -> Node:
    config = Config(data_dir=path / "data", partitions=2)
    return Node(config, Registry.build({"Thing": Thing}, config))


def refuse(closing: Closing, what: str, error: Exception) -> None:
    """Have one closer do its work and then fail."""

    def failing(close: Callable[[], Awaitable[None] | None]) -> Callable[[], Awaitable[None]]:
        async def closed() -> None:
            if (awaited := close()) is not None:
                await awaited
            raise error

        return closed

    closers: Any = closing._closers
    closing._closers = [(name, failing(close) if name == what else close) for name, close in closers]


def is_closed(node: Node, path: Path) -> bool:
    """Nothing of it is left: no task, no lock, no open file of the log or the store."""
    assert all(task.done() for task in node._tasks)
    assert node.gateway.closed is not None
    with pytest.raises(OperatorError):
        node.store.flush()
    assert not any(owner.tail for owner in node.owners)

    async def again() -> None:
        async with node_in(path):
            pass

    asyncio.run(again())
    return True


@pytest.mark.parametrize("what", CLOSERS)
@pytest.mark.parametrize("error", [StorageFailed("disk full"), RuntimeError("a bug")], ids=["disk", "bug"])
def test_whatever_fails_to_close_all_else_is_closed(
    what: str, error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One closer after the other fails: it is named in the log, and raised."""
    node: Node

    async def lives() -> None:
        nonlocal node
        async with node_in(tmp_path) as node:
            assert tuple(name for name, _ in node._opened._closers) == CLOSERS
            refuse(node._opened, what, error)

    with pytest.raises(PerdureError, match=r"disk full|a bug") as raised:
        asyncio.run(lives())
    assert isinstance(raised.value, StorageFailed) == isinstance(error, StorageFailed)
    assert f"could not close {what}" in caplog.text
    assert is_closed(node, tmp_path)


@pytest.mark.parametrize("method", ["flush", "put_all"])
def test_a_store_that_refuses_at_the_end_leaves_nothing_open(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log is closed and the directory free; what is not in the store is on the log."""
    node: Node

    def refused(*_: object) -> None:
        raise StorageFailed("disk full")

    async def lives() -> None:
        nonlocal node
        async with node_in(tmp_path) as node:
            monkeypatch.setattr(node.maintenance, "flush" if method == "flush" else "write_all", refused)

    with pytest.raises(StorageFailed, match="disk full"):
        asyncio.run(lives())
    monkeypatch.undo()
    assert "could not write the store out: storage-failed: disk full" in caplog.text
    assert is_closed(node, tmp_path)


def test_several_failures_are_all_named(tmp_path: Path) -> None:
    """In the order in which they came."""

    async def lives() -> None:
        async with node_in(tmp_path) as node:
            refuse(node._opened, "the store", StorageFailed("disk full"))
            refuse(node._opened, "the gateway", LookupError("who"))

    with pytest.raises(OperatorError) as raised:
        asyncio.run(lives())
    assert str(raised.value) == "could not close the gateway: who; could not close the store: disk full"


@pytest.mark.parametrize(
    "at",
    [
        "start_log",
        "bootstrap_log",
        "RocksStore",
        "Gateway",
        "ForeignApps",
        "Watchdog",
        "exposition",
        "warn_of_the_unserved",
    ],
)
def test_what_was_opened_is_closed_if_the_start_fails(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half way, at any step, and also if closing fails then: why it could not start is what is raised."""

    def broken(*_: object, **__: object) -> None:
        raise StorageFailed("no more")

    async def lives() -> None:
        node = node_in(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(node_module, at, broken)
            node._opened.push("the door", lambda: broken())
            with pytest.raises(StorageFailed, match="no more"):
                await node.__aenter__()
        assert "could not close the door" in caplog.text
        async with node_in(tmp_path):  # nothing of it is left that would be in the way
            pass

    asyncio.run(lives())


def test_a_node_that_is_cancelled_while_it_closes_closes_all_the_same(tmp_path: Path) -> None:
    """A second signal during start is one."""

    async def lives() -> None:
        node = node_in(tmp_path)
        await node.__aenter__()
        closing, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            closing.set()
            await go_on.wait()

        node._opened.push("the door", slow)
        leaving = asyncio.create_task(node.__aexit__(None, None, None))
        await closing.wait()
        leaving.cancel()
        await asyncio.sleep(0)
        leaving.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        async with node_in(tmp_path):
            pass

    asyncio.run(lives())


async def _fails() -> None:
    raise LookupError


def test_what_runs_to_its_end_says_how_it_ended() -> None:
    """An error is the caller's."""
    with pytest.raises(LookupError):
        asyncio.run(to_its_end(_fails()))


def test_a_node_that_stops_ends_each_owner_whatever_becomes_of_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One whose reign cannot be ended stops serving as they do."""

    async def lives() -> None:
        async with node_in(tmp_path) as node:
            first, second = node.owners

            def broken() -> None:
                raise AssertionError("a bug")

            first.turns.drop_all = broken  # type: ignore[method-assign]  # the fault
            node._stop(StorageFailed("disk full"))
            assert [owner.state for owner in node.owners] == [OwnerState.STOPPED] * 2
            assert [owner.tail for owner in node.owners] == [None, None]
            assert [owner.journal.open for owner in node.owners] == [False, False]
            assert node.gateway.closed is not None
            assert second.error is node.stopped.result()

    with caplog.at_level(logging.ERROR):
        asyncio.run(lives())
    assert "could not end the ownership of partition 0: AssertionError('a bug')" in caplog.text


def test_an_owner_that_cannot_end_its_reign_stops_the_node(tmp_path: Path) -> None:
    """After a lost append it would begin beside what is left of the old reign; and it would be silent."""

    async def lives() -> None:
        async with node_in(tmp_path) as node:
            first = node.owners[0]

            def broken() -> None:
                raise AssertionError("a bug")

            first.turns.drop_all = broken  # type: ignore[method-assign]  # the fault
            with pytest.raises(AssertionError, match="a bug"):
                first.lost(StorageFailed("gone"))
            del first.turns.drop_all
            assert isinstance(await node.stopped, AssertionError)

    asyncio.run(lives())


@pytest.mark.parametrize(
    ("when", "code"), [("never", 0), ("flush", 1), ("close", 1)], ids=["all is well", "flush", "close"]
)
def test_the_exit_code_says_whether_all_was_closed(when: str, code: int, tmp_path: Path) -> None:
    """And stderr what was not."""
    (tmp_path / "app.py").write_text(APP)
    program = f"""
import sys
from perdure.api.cli import main
from perdure.schemas.errors import StorageFailed
from perdure.streams.store.rocks import RocksStore

def refuse(*_):
    raise StorageFailed("disk full")

def ready():
    setattr(RocksStore, {when!r}, refuse)

import perdure.api.cli.serving as serving
announce = serving._announce
def announced(*args, **named):
    announce(*args, **named)
    ready()
serving._announce = announced
if {when!r} == "close":  # its node holds the one that it found
    ready()
main(["serve", "app.py", "--port", "0", "--data", "data"])
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=clean_environ(),
    ) as process:
        assert process.stdout is not None
        assert "ready at" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=STOP_S)
    assert (process.returncode, "disk full" in errors) == (code, code == 1)
