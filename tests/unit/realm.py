"""All owners of a few partitions in one process, on virtual time: what the stories
about calls have in common.

Every story ends with the same check: everything is done, and the tables of each partition are what a replay
of its journal from zero gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from random import Random
from typing import Any

from tests.unit.reign import Timed, rows

from perdure.objects.durable import Binding, DurableObject, Env
from perdure.objects.registry import ObjectType, Registry
from perdure.objects.rpc import methods_of
from perdure.schemas.commands import CALL, LOCAL, NOBODY, Command, call_body, command_record, sealed_record
from perdure.schemas.effects import Out
from perdure.schemas.journal import Entry, EntryRecord, decode_record
from perdure.schemas.keys import partition_of
from perdure.schemas.replies import OK, Reply
from perdure.schemas.values import decode_value
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.log.base import LogRecord, Record, Topic
from perdure.streams.log.memory.broker import Faults, MemoryBroker
from perdure.streams.log.memory.log import MemoryLog
from perdure.streams.owner.owner import Owner
from perdure.streams.owner.recovery import live
from perdure.streams.owner.socket_watch import GatewayWatch
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.object_quotas import ObjectQuotas
from perdure.streams.turns.ports import (
    UNSEALED,
    Identity,
    OwnerState,
    PartitionBounds,
    Ports,
    RecoveryServices,
    Transport,
    TurnServices,
)
from perdure.streams.virtual_time import VirtualLoop


class Doors:
    """Keeps what owners answer to the story, by command id."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}

    def answer(self, reply_to: str, id_: str, reply: Reply, partition: int, offset: int) -> bool:
        if reply_to != LOCAL:
            return reply_to == NOBODY
        self.replies[id_] = reply
        return True

    def frames(self, out: Out, partition: int, offset: int, n: int) -> bool:
        raise AssertionError("no object here has a WebSocket")

    def holds(self, gateway: str) -> bool:
        return False

    def stopped(self, partition: int, error: BaseException) -> None:
        """Nobody waits here."""


class Fates(Faults):
    """What becomes of the next appends, as the story says; then all is well again."""

    timeout_s = 0.5

    def __init__(self) -> None:
        self.next: list[str] = []
        self.late = 1.0
        self.delays: dict[str, float] = {}

    def fate(self, step: str) -> str:
        return self.next.pop(0) if step == "append" and self.next else "ok"

    def late_s(self) -> float:
        return self.late

    def delay_s(self, step: str) -> float:
        return self.delays.get(step, 0.001)


class Chaos(Fates):
    """Seeded delays and fates: how many of all appends are lost, never made or late, until it is `calm`."""

    def __init__(self, random: Random, *, lost: float, never: float, late: float) -> None:
        super().__init__()
        self.random = random
        self.calm = False
        self._lost, self._never, self._late = lost, lost + never, lost + never + late

    def fate(self, step: str) -> str:
        roll = self.random.random()
        if self.calm or step != "append" or roll >= self._late:
            return "ok"
        return "lost" if roll < self._lost else "never" if roll < self._never else "late"

    def delay_s(self, step: str) -> float:
        return self.random.random() * 0.02

    def late_s(self) -> float:
        return self.random.random() * 2


class Realm(Timed):
    """`ask` appends a call and gives its id; `told` waits for its answer; `crash`
    and `begin` are a restart.
    """

    def __init__(
        self,
        kind: type[DurableObject],
        *,
        shared: bool = False,
        partitions: int = 3,
        bounds: PartitionBounds | None = None,
        makers: ObjectQuotas | None = None,
    ) -> None:
        self.seen: list[Any] = []
        self.faults = Fates()
        self.bounds = bounds
        self.makers = makers
        self.seal = UNSEALED
        self.partitions = partitions
        self.broker = MemoryBroker(
            partitions,
            ordered=not shared,
            exclusive=not shared,
            clock_ms=self.clock_ms,
            faults=self.faults,
        )
        self.doors = Doors()
        self.store = MemoryStore()
        self.registry = Registry(
            {"Thing": ObjectType("Thing", kind)},
            Env({"seen": self.seen, "realm": self, "THINGS": Binding("Thing", methods_of(kind)), "round": 0}),
        )
        self.errors: list[dict[str, Any]] = []
        self.logs: list[MemoryLog] = []
        self.by_partition: dict[int, Owner] = {}
        self.living: dict[Owner, asyncio.Task[None]] = {}
        self._ids = count()
        self._nodes = count()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.errors.append(context))

    async def begin(self, *own: int) -> None:
        """A process starts, claims every partition (or those given) and serves it."""
        node = f"n{next(self._nodes)}"
        self.log = MemoryLog(self.broker, node)
        self.logs.append(self.log)
        await bootstrap_log(self.log, "app", "app-uuid")
        uuids = count()
        ports = Ports(
            Transport(self.log, self.doors, self.clock_ms, Random(1), self.seal),
            TurnServices(self.registry, object_quotas=self.makers),
            RecoveryServices(lambda: f"{node}-{next(uuids)}"),
            Identity(node, app_uuid="app-uuid"),
            GatewayWatch(),
        )
        self.ports = ports
        for p in own or range(self.partitions):
            owner = Owner(ports, Tables(self.store, p, exclusive=self.log.exclusive), self.bounds)
            self.by_partition[p] = owner
            self.living[owner] = asyncio.create_task(live(owner))
        await self.until(lambda: all(owner.state is OwnerState.SERVING for owner in self.owners))

    @property
    def owners(self) -> list[Owner]:
        """Who claimed each partition last."""
        return [self.by_partition[p] for p in range(self.partitions)]

    async def crash(self) -> None:
        """All processes die: what was not durable is forgotten."""
        for log in self.logs:
            log.kill()
        for owner, living in self.living.items():
            living.cancel()
            owner.end_epoch()
        await asyncio.wait(self.living.values())
        self.living.clear()
        if self.broker.ordered:
            self.broker.crash(keep_in_flight=False)

    def place(self, name: str) -> int:
        return partition_of(f"Thing/{name}", self.partitions)

    def name_in(self, partition: int, prefix: str = "x") -> str:
        """The name of an object that lives in this partition."""
        return next(f"{prefix}{n}" for n in count() if self.place(f"{prefix}{n}") == partition)

    def owner_of(self, name: str) -> Owner:
        return self.owners[self.place(name)]

    def ask(self, name: str, method: str, *args: Any, **envelope: Any) -> str:
        """Append a call; its id."""
        id_ = f"story{next(self._ids)}"
        body = call_body(method, list(args), {})
        command = Command(f"Thing/{name}", CALL, method, body=body, id=id_, reply_to=LOCAL, **envelope)
        record = sealed_record(command, UNSEALED) if command.internal else command_record(command)
        self.log.append(Topic.COMMANDS, self.place(name), Record(*record))
        return id_

    async def told(self, *ids: str) -> list[Reply]:
        """The answers to these commands, in this order."""
        await self.until(lambda: all(id_ in self.doors.replies for id_ in ids))
        return [self.doors.replies[id_] for id_ in ids]

    async def call(self, name: str, method: str, *args: Any, **envelope: Any) -> Reply:
        """Append a call and wait for its answer."""
        return (await self.told(self.ask(name, method, *args, **envelope)))[0]

    async def result(self, name: str, method: str, *args: Any, **envelope: Any) -> bytes:
        """The JSON text that a call which succeeds returns."""
        reply = await self.call(name, method, *args, **envelope)
        assert reply.outcome == OK, reply
        return reply.body[len(b'{"result":') : -1]

    def value(self, name: str, field: str = "count") -> Any:
        """What the tables hold."""
        encoded = self.owner_of(name).tables.values.get(f"Thing/{name}", field)
        return None if encoded is None else decode_value(encoded)

    async def records(self, topic: Topic, partition: int) -> list[LogRecord]:
        """All durable records of a topic."""
        end = (await self.log.bounds(topic, partition)).end
        return [each async for chunk in self.log.read(topic, partition, 0, end) for each in chunk]

    async def entries(self, name: str) -> list[Entry]:
        """What the journal says of an object, in order."""
        found = [decode_record(each.value) for each in await self.records(Topic.JOURNAL, self.place(name))]
        return [
            each.entry
            for each in found
            if isinstance(each, EntryRecord) and each.entry.key == f"Thing/{name}"
        ]

    async def quiet(self) -> None:
        """Wait until nothing is under way anywhere."""
        await self.until(lambda: all(self._quiet(owner) for owner in self.owners))

    def _quiet(self, owner: Owner) -> bool:
        stream = self.broker.streams[Topic.COMMANDS, owner.partition]
        sent = not any(log._queues.get(stream) for log in self.logs if log.alive)
        mark = stream.durable
        return (
            owner.idle and sent and stream.end == mark == owner.tables.done.mark == owner.output.commands.mark
        )

    async def check(self) -> None:
        """Everything is done, and each partition's tables are the fold of its
        journal, in one piece or in many.
        """
        await self.quiet()
        assert self.errors == []
        for owner in self.owners:
            assert owner.state is OwnerState.SERVING
            whole, pieces = (
                Tables(MemoryStore(), owner.partition, exclusive=self.log.exclusive) for _ in range(2)
            )
            for at, each in enumerate(await self.records(Topic.JOURNAL, owner.partition)):
                whole.apply(each.offset, each.value)
                pieces.apply(each.offset, each.value)
                if at % 3 == 0:
                    pieces.write_all()
            for tables in (owner.tables, whole, pieces):
                tables.write_all()
            live_rows = [
                row for row in rows(owner.tables) if row[0][1:3] == owner.partition.to_bytes(2, "big")
            ]
            assert live_rows == rows(whole) == rows(pieces)


def story(
    kind: type[DurableObject], told: Callable[[Realm], Awaitable[None]], *, check: bool = True, **options: Any
) -> None:
    """Begin over `Thing`s of this class, tell the story, and check how it ended."""

    async def main() -> None:
        realm = Realm(kind, **options)
        await realm.begin()
        await told(realm)
        if check:
            await realm.check()
        await realm.crash()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
