"""Several nodes of one app on a log in memory: what the stories about placement have in common.

A node is what a process holds: a client of the log, a gateway, owners and placement over a store of its
own. It can be killed, left alone by the log for a while, and asked to leave. Clients add tokens to objects
by any gateway, and repeat what failed under the same key.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

from tests.unit.harness import START_MS

from perdure.api.gateway import Gateway
from perdure.api.replies import ReplyFuture
from perdure.api.sockets.registry import SocketRegistry
from perdure.objects.durable import Binding, DurableObject, Env
from perdure.objects.http import Request, Response
from perdure.objects.registry import ObjectType, Registry
from perdure.objects.sockets import WebSocket
from perdure.schemas.commands import CALL, FETCH, call_body
from perdure.schemas.errors import PerdureError, Unavailable
from perdure.schemas.journal import EntryRecord
from perdure.schemas.sockets import MESSAGE, TEXT
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.journal.reader import JournalReader
from perdure.streams.log.base import Topic
from perdure.streams.log.memory.broker import Faults, MemoryBroker
from perdure.streams.log.memory.log import MemoryLog
from perdure.streams.owner.owner import Owner
from perdure.streams.owner.socket_watch import GatewayWatch
from perdure.streams.placement.placement import Placement
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.ports import (
    UNSEALED,
    Identity,
    OwnerState,
    Ports,
    RecoveryServices,
    Transport,
    TurnServices,
)
from perdure.streams.virtual_time import VirtualLoop

PARTITIONS = 4
APP_UUID = "app-uuid"


class Bag(DurableObject):
    """Keeps the tokens that it was given, in order."""

    async def add(self, token: str) -> int:
        tokens: list[str] = await self.state.get("tokens", [])
        await self.state.put("tokens", [*tokens, token])
        return len(tokens) + 1

    async def slowly(self, token: str, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return await self.add(token)

    async def relay(self, name: str, token: str) -> int:
        result: int = await self.env.BAGS.get(name).add(token)
        return result

    async def cross(self, name: str, token: str) -> int:
        await asyncio.sleep(0.1)
        return await self.relay(name, token)

    async def tokens(self) -> list[str]:
        result: list[str] = await self.state.get("tokens", [])
        return result


class Room(DurableObject):
    """Sends each message back."""

    async def fetch(self, request: Request) -> Response:
        await self.state.accept_websocket(request)
        return Response.upgrade()

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        ws.send(message)


class FarEnd:
    """A WebSocket at the gateway of one node: `heard` is what its object sent."""

    def __init__(self, node: ClusterNode, key: str) -> None:
        self.node, self.key, self.principal = node, key, ""
        self.number, self.id = node.sockets.new_id()
        self.position, self.auto = -1, None
        self.heard: list[str] = []
        self.closed: list[Any] = []
        self._events = 0

    @classmethod
    async def open(cls, node: ClusterNode, name: str) -> FarEnd:
        end, listener = cls(node, f"Room/{name}"), ReplyFuture()
        node.sockets.opened(end.number, end.id, end)
        node.gateway.submit(
            listener,
            end.key,
            FETCH,
            "GET",
            "/",
            (("upgrade", "websocket"),),
            socket=f"{end.id} {node.sockets.address}",
        )
        assert (await listener.future).reply.status == 101
        return end

    async def say(self, text: str) -> None:
        self._events += 1
        self.node.sockets.event(self, self.key, self.id, self._events, MESSAGE, text.encode(), ("type", TEXT))

    def write(self, data: bytes) -> None:
        self.heard.append(data[2:].decode())

    def close(self, code: int, reason: str) -> None:
        self.closed.append(code)

    def fail(self, code: int, reason: str) -> None:
        self.closed.append(code)

    def ended(self) -> None:
        """The event is durable."""

    def lost(self, error: BaseException) -> None:
        self.closed.append(error)

    def ping(self) -> None:
        """It answers at once."""


class ClusterNode:
    """One process."""

    def __init__(self, cluster: Cluster, name: str, store: MemoryStore, home: str) -> None:
        self.cluster, self.name, self.store, self.home = cluster, name, store, home
        self.alive = True
        self.failed: list[BaseException] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.log = MemoryLog(cluster.broker, name)

    async def start(self, *, seal: Any = None) -> None:
        cluster, loop = self.cluster, asyncio.get_running_loop()
        self.gateway = Gateway(
            self.log, node=self.name, deadline_s=20.0, clock_ms=cluster.clock_ms, seal=seal
        )
        kind, rooms = ObjectType("Bag", Bag), ObjectType("Room", Room)
        self.sockets = SocketRegistry(self.gateway, self.log, seal or UNSEALED, node=self.name)
        env = Env({"BAGS": Binding("Bag", kind.methods)})
        registry = self.registry = Registry({"Bag": kind, "Room": rooms}, env)
        uuids = count()
        await bootstrap_log(self.log, "app", APP_UUID)
        transport = Transport(self.log, self.gateway, cluster.clock_ms, Random(self.name))
        if seal is not None:
            transport = Transport(self.log, self.gateway, cluster.clock_ms, Random(self.name), seal)
        self.ports = Ports(
            transport,
            TurnServices(registry),
            RecoveryServices(lambda: f"{self.name}-{next(uuids)}"),
            Identity(self.name, "app", APP_UUID, f"host-{self.name}", 7),
            GatewayWatch(),
        )
        self.owners = [Owner(self.ports, Tables(self.store, p)) for p in range(cluster.broker.partitions)]
        await self.gateway.start(self.owners)
        self.placement = Placement(
            self.owners, self.home, cluster.standbys, lambda: self.gateway.waiting, self.failed.append
        )
        await self.placement.join()
        self.placement.start()
        self.tasks.append(loop.create_task(self.gateway.sweep()))

    @property
    def serves(self) -> list[int]:
        return [each.partition for each in self.owners if each.state is OwnerState.SERVING]

    async def leave(self) -> None:
        """As SIGTERM: hand over, then say that it has left."""
        await self.placement.leave()
        await self.stop()
        await self.placement.close()

    async def _halt(self) -> None:
        self.alive = False
        await self.placement.end()
        for owner in self.owners:
            owner.end_epoch()
        for task in self.tasks:
            task.cancel()

    async def stop(self) -> None:
        await self._halt()
        self.gateway.close(Unavailable("the node has stopped"))

    async def kill(self) -> None:
        """As SIGKILL: nothing is said, and what was written to the store since its last flush may be lost."""
        self.log.kill()
        await self._halt()
        self.store.crash(0)

    def stall(self, seconds: float) -> None:
        """As SIGSTOP, as far as others see it: nothing reaches it or leaves it."""
        self.log.stalled_until_s = asyncio.get_running_loop().time() + seconds


class Cluster:
    """The nodes of one app, and clients that know what they were answered."""

    def __init__(
        self, *, seed: int = 0, standbys: int = 0, faults: Faults | None = None, partitions: int = PARTITIONS
    ) -> None:
        self.random = Random(seed)
        self.standbys = standbys
        self.broker = MemoryBroker(
            partitions, ordered=False, exclusive=False, clock_ms=self.clock_ms, faults=faults
        )
        self.nodes: list[ClusterNode] = []
        self.names = count()
        self.over = False  # clients begin no further calls
        self.acked: dict[str, str] = {}  # token -> object
        self.places: dict[str, set[int]] = {}  # object -> what `add` returned
        self.failures: list[BaseException] = []
        self.counts: Counter[str] = Counter()

    def clock_ms(self) -> int:
        return START_MS + int(asyncio.get_running_loop().time() * 1000)

    async def until(self, true: Callable[[], object]) -> None:
        """Let time go on until something holds; 200 s at most."""
        async with asyncio.timeout(200):
            while not true():  # noqa: ASYNC110 - any condition; the time is virtual
                await asyncio.sleep(0.001)

    @property
    def living(self) -> list[ClusterNode]:
        return [node for node in self.nodes if node.alive]

    async def add(self, store: MemoryStore | None = None, home: str = "") -> ClusterNode:
        name = f"n{next(self.names)}"
        node = ClusterNode(self, name, store or MemoryStore(), home or name)
        await node.start()
        self.nodes.append(node)
        return node

    async def settled(self) -> None:
        """Wait until every living node serves its share and no other."""
        await self.until(lambda: all(node.placement.settled for node in self.living) and self._shared())

    def _shared(self) -> bool:
        serving = sorted(partition for node in self.living for partition in node.serves)
        counts = [len(node.serves) for node in self.living]
        return serving == list(range(self.broker.partitions)) and max(counts) - min(counts) <= 1

    async def call(
        self, node: ClusterNode, name: str, method: str, *args: Any, key: str | None = None
    ) -> Any:
        """One call by the gateway of a node. Raises what the client is answered."""
        listener = ReplyFuture()
        node.gateway.submit(
            listener, f"Bag/{name}", CALL, method, body=call_body(method, list(args), {}), client_key=key
        )
        answer = await listener.future
        if answer.reply.error is not None:
            raise Unavailable(answer.reply.error.message)
        return json.loads(answer.reply.body)["result"]

    async def client(self, number: int, calls: int, *, on: list[ClusterNode] | None = None) -> None:
        """Add tokens, each by some gateway, until it is acknowledged."""
        for n in range(calls):
            if self.over:
                return
            token, name = f"{number}.{n}", f"bag{self.random.randrange(6)}"
            while token not in self.acked:
                node = self.random.choice(on or self.living or self.nodes)
                try:
                    async with asyncio.timeout(30):
                        place = await self.call(node, name, "add", token, key=token)
                except (PerdureError, TimeoutError) as error:
                    self.failures.append(error)
                    await asyncio.sleep(0.05)
                    continue
                self.acked[token] = name
                taken = self.places.setdefault(name, set())
                assert place not in taken, f"two answers say that theirs is token {place} of {name}"
                taken.add(place)
            await asyncio.sleep(self.random.random() * 0.1)

    async def check(self) -> None:
        """Hold what was answered against the objects, and the live tables against the journal."""
        node = self.living[0]
        for name in {*self.acked.values()}:
            tokens = await self.call(node, name, "tokens")
            assert len(tokens) == len(set(tokens)), f"a token is twice in {name}"
            wanted = {token for token, at in self.acked.items() if at == name}
            assert wanted <= set(tokens), f"{name} has lost {wanted - set(tokens)}"
            assert self.places[name] <= set(range(1, len(tokens) + 1))
        for partition in range(self.broker.partitions):
            self._check_journal(partition)
        for each in self.nodes:
            assert not each.failed, each.failed

    def _check_journal(self, partition: int) -> None:
        """No command has two entries that count (I2), and the tables are the fold of the journal (I6)."""
        stream = self.broker.streams[Topic.JOURNAL, partition]
        reader, commands = JournalReader("check"), Counter[int]()
        for record in stream.records:
            entry = reader.step(record.offset, record.value)
            if isinstance(entry, EntryRecord):
                commands[entry.entry.command] += 1
        assert not commands or max(commands.values()) == 1
        owner = next(n.owners[partition] for n in self.living if partition in n.serves)
        fresh = Tables(MemoryStore(), partition)
        for record in stream.records[: owner.tables.reader.offset]:
            fresh.apply(record.offset, record.value)
        owner.tables.write_all()
        fresh.write_all()
        number = partition.to_bytes(2, "big")
        for kind in b"vk":
            start = bytes([kind]) + number
            rows = list(owner.tables.store.scan(start, start + b"\xff" * 8))
            assert rows == list(fresh.store.scan(start, start + b"\xff" * 8))

    async def end(self) -> None:
        for node in self.living:
            await node.stop()


def run(story: Any) -> None:
    """Run a coroutine on virtual time."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(story)
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
