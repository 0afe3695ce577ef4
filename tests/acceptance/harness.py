"""What every acceptance test needs: an app deployed somewhere, clients that load
it, and the audit at the end.

A deployment is a folder with the app and its `perdure.toml`. Which log it runs on is a setting of it, so the
same story is told of the embedded log and of Kafka.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import httpx
from tests.acceptance.wire import PATIENCE_S, Inside, Wire
from tests.acceptance.witness import History, Witness, check, read_history
from tests.process import Server, serve

from perdure.api.loading import load_app, load_config
from perdure.api.node import Node
from perdure.objects.registry import Registry
from perdure.schemas.config import Config
from perdure.streams.rebuild import coordinator
from perdure.streams.rebuild.verify import rebuild, verify
from perdure.streams.store.rocks import RocksStore

APP = Path(__file__).with_name("app.py")
SOAK = os.environ.get("PERDURE_SOAK") == "1"
PARTITIONS = 4


def port_of(server: Server) -> int:
    port = urlsplit(server.url).port
    assert port is not None
    return port


def names(count: int, namespace: str = "Counter") -> list[str]:
    """Keys of objects."""
    return [f"{namespace}/n{number}" for number in range(count)]


@dataclass(frozen=True)
class Deployment:
    """One app in one place: `folder` has its code and configuration, `data` its data directory."""

    folder: Path
    data: Path

    @contextlib.contextmanager
    def serve(
        self, *options: str, environ: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> Iterator[Server]:
        """A server of it until the block ends. Raises `DidNotStart`."""
        with serve(self.folder, self.data, *options, environ=environ, prefix=prefix) as server:
            yield server

    @property
    def config(self) -> Config:
        return load_config(self.folder, flags={"data_dir": self.data})

    def verify(self) -> dict[str, Any]:
        """What `perdure verify` does: is the state what a replay of the journal
        gives? Returns its findings.
        """
        findings = asyncio.run(verify(self.config))
        assert findings["differences"] == 0
        return findings

    def build_anew(self, helpers: int) -> tuple[dict[str, Any], dict[bytes, bytes]]:
        """What `perdure state rebuild` does with so many helpers: what it says but
        for the time, and all rows then.
        """
        config = self.config.model_copy(update={"rebuild_helpers": helpers})
        with patch.object(coordinator, "WORTH_RECORDS", 1):
            said = asyncio.run(rebuild(config))
        store = RocksStore(self.data / "state")
        rows = dict(store.scan(b"", b"\xff"))
        store.close()
        return {**said, "seconds": 0}, rows

    def history(self) -> History:
        """What the log of the stopped app holds."""
        return asyncio.run(read_history(self.config))

    def audit(self, witness: Witness) -> None:
        """Let a node begin once more (in this process), read every object, and hold
        everything against the log.
        """
        asyncio.run(self._read_all(witness))
        check(witness, self.history())
        self.verify()

    async def _read_all(self, witness: Witness) -> None:
        app = load_app(self.folder, flags={"data_dir": self.data})
        async with (
            asyncio.timeout(PATIENCE_S),
            Node(app.config, Registry.build(app.classes, app.config)) as node,
        ):
            transport = httpx.ASGITransport(app=node.asgi)
            async with httpx.AsyncClient(transport=transport) as client:
                for key in witness.by_object():
                    operation = await witness.ask(Inside(client), key, adds=False)
                    assert operation.ok, operation


def deploy(
    path: Path,
    *,
    log: str = "embedded",
    name: str = "acceptance",
    partitions: int = PARTITIONS,
    settings: str = "",
    app: Path = APP,
) -> Deployment:
    """A new deployment below `path`; `settings` are further lines of its perdure.toml."""
    folder = path / "app"
    folder.mkdir()
    shutil.copy(app, folder / "app.py")
    (folder / "perdure.toml").write_text(
        f'name = "{name}"\nmain = "app.py"\nlog = "{log}"\npartitions = {partitions}\n{settings}'
    )
    return Deployment(folder, path / "data")


async def load(
    port: int,
    witness: Witness,
    random: Random,
    keys: Sequence[str],
    *,
    clients: int = 32,
    reads: float = 0.2,
    go_on: Callable[[], bool] = lambda: True,
) -> None:
    """Clients that add and read, each one request at a time, until `go_on` says no or the server is gone."""

    async def client() -> None:
        with contextlib.suppress(ConnectionError):
            async with Wire(port) as wire:
                while go_on():
                    await witness.ask(wire, random.choice(keys), adds=random.random() >= reads)

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())


def load_until_killed(
    server: Server, witness: Witness, random: Random, keys: Sequence[str], *, oks: int, clients: int = 32
) -> None:
    """Load it, and SIGKILL it at some moment after the `oks`-th success. Fails if
    nothing was in flight then.
    """
    left, in_flight = oks, 0

    def kill() -> None:
        nonlocal in_flight
        in_flight = witness.in_flight
        os.kill(server.pid, signal.SIGKILL)

    def one_less() -> None:
        nonlocal left
        left -= 1
        if left == 0:  # not at once: right after an answer is but one of the moments there are
            asyncio.get_running_loop().call_later(random.random() * 0.005, kill)

    unknown = len(witness.unknown)
    witness.on_ok = one_less
    asyncio.run(load(port_of(server), witness, random, keys, clients=clients))
    witness.on_ok = lambda: None
    server.wait()
    assert in_flight > 0, "nothing was in flight when the server was killed: the test shows nothing"
    assert len(witness.unknown) > unknown, "each command was answered: the kill came too late"


def add_each(server: Server, witness: Witness, keys: Sequence[str]) -> None:
    """One add to each of `keys`, one after the other. Ends where the server does."""
    asyncio.run(_one_each(server, witness, keys, adds=True))


def read_all(server: Server, witness: Witness) -> None:
    """One read of each object the witness knows of."""
    asyncio.run(_one_each(server, witness, list(witness.by_object()), adds=False))


async def _one_each(server: Server, witness: Witness, keys: Sequence[str], *, adds: bool) -> None:
    async with asyncio.timeout(PATIENCE_S):
        with contextlib.suppress(ConnectionError):
            async with Wire(port_of(server)) as wire:
                for key in keys:
                    operation = await witness.ask(wire, key, adds=adds)
                    assert adds or operation.ok, operation
