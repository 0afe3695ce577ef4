"""A disk that cannot be read, under a running server: who reads there is told, all
others go on, and it heals by itself.

strace is attached to the server while it runs, and from then on fails each read of
the state's tables with EIO.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.acceptance import strace
from tests.acceptance.harness import Deployment, deploy, port_of
from tests.acceptance.systems import EXAMPLES
from tests.acceptance.wire import PATIENCE_S, Answer, Wire
from tests.process import Server

APP = """\
from safe_object import SafeObject
from perdure import Response, StorageFailed

class Insistent(SafeObject):
    async def fetch(self, request):
        try:
            await self.state.get("data")
        except StorageFailed:
            await self.state.put("data", "written all the same")
        return await super().fetch(request)
"""
BEFORE = (
    Random(1).randbytes(10_000).hex()
)  # it fills blocks of its own, which nobody has read when the server starts
# the first and the last of each namespace: every start looks which there are, and so reads blocks of theirs
ENDS = [f"{namespace}/{name}" for namespace in ("Insistent", "SafeObject") for name in "az"]
KEYS = [f"{namespace}/n{n}" for n in range(3) for namespace in ("SafeObject", "Insistent")]


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    """The example, and an object that writes although it could not read; one
    partition, so that all share it.
    """
    made = deploy(tmp_path, partitions=1)
    shutil.copy(EXAMPLES / "safe_object.py", made.folder)
    (made.folder / "app.py").write_text(APP)
    return made


@contextlib.contextmanager
def unreadable(server: Server, state: Path) -> Iterator[None]:
    """Reads of the tables in `state` fail until the block ends."""
    paths = [each for file in state.glob("*.sst") for each in ("-P", str(file))]
    assert paths, "the state has no table"
    command = [strace.or_skip(), "-f", "-qq", "-o", os.devnull, "-p", str(server.pid), *paths]
    command += ["-e", "trace=pread64", "-e", "inject=pread64:error=EIO"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
        try:
            _wait_until_traced(server.pid)
            yield
        finally:
            tracer.send_signal(signal.SIGTERM)
            tracer.wait()


def _wait_until_traced(pid: int) -> None:
    """Until every thread of the process has a tracer."""
    until_s = time.monotonic() + PATIENCE_S
    tasks = Path(f"/proc/{pid}/task")
    while any("TracerPid:\t0\n" in each.read_text() for each in tasks.glob("*/status")):
        assert time.monotonic() < until_s, "strace did not attach itself"
        time.sleep(0.01)


def ask_each(server: Server, method: str, keys: list[str], body: bytes = b"") -> list[Answer]:
    async def asked() -> list[Answer]:
        async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
            return [await wire.ask(method, f"/objects/{key}", body) for key in keys]

    return asyncio.run(asked())


def test_an_object_answers_503_while_its_state_cannot_be_read_and_changes_nothing(
    deployment: Deployment,
) -> None:
    """Caught, it answers in its own words; a put after the failure raises; a new
    object of the partition works.
    """
    with deployment.serve() as server:
        assert {a.status for a in ask_each(server, "POST", [*ENDS, *KEYS], f'"{BEFORE}"'.encode())} == {200}
        assert server.stop() == 0
    safe, insistent = KEYS[0::2], KEYS[1::2]
    with deployment.serve() as server:
        with unreadable(server, deployment.data / "state"):
            for answer in ask_each(server, "GET", safe):
                assert answer.status == 503
                assert answer.json["error"] == "Service unavailable"
                assert "cannot be read" in answer.json["reason"]
            for answer in ask_each(server, "POST", insistent, b'"after"'):
                assert (answer.status, answer.code) == (507, "storage-failed"), answer
            assert {a.status for a in ask_each(server, "POST", ["SafeObject/aside"], b'"new"')} == {200}
            assert ask_each(server, "GET", ["SafeObject/aside"])[0].json == "new"
        assert [answer.json for answer in ask_each(server, "GET", KEYS)] == [BEFORE] * len(KEYS)
        assert {a.status for a in ask_each(server, "POST", KEYS, b'"healed"')} == {200}
        server.kill()
    with deployment.serve() as server:
        assert [answer.json for answer in ask_each(server, "GET", KEYS)] == ["healed"] * len(KEYS)
        assert server.stop() == 0
    deployment.verify()
