"""One owner on a log in memory, on virtual time: what the stories about owners have in common.

Every story ends with the same check: the tables are what a replay of the journal from zero gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count
from random import Random
from typing import Any

import msgspec

from perdure.objects.durable import DurableObject, Env
from perdure.objects.registry import ObjectType, Registry
from perdure.schemas.admin import OF_ALARM, Act, Place
from perdure.schemas.commands import (
    ADMIN,
    CALL,
    LOCAL,
    NOBODY,
    Command,
    call_body,
    command_record,
    sealed_record,
)
from perdure.schemas.effects import Out
from perdure.schemas.journal import Entry, EntryRecord, decode_record
from perdure.schemas.migrations import Step
from perdure.schemas.replies import Reply
from perdure.schemas.sockets import Frame, parse_frame
from perdure.schemas.values import decode_value
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.log.base import Headers, LogRecord, Record, Topic
from perdure.streams.log.memory.broker import Faults, MemoryBroker
from perdure.streams.log.memory.log import MemoryLog
from perdure.streams.owner.owner import Owner
from perdure.streams.owner.recovery import live
from perdure.streams.owner.socket_watch import GatewayWatch
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
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

GATEWAY = "0/gateway.g1"
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


class Doors:
    """Keeps what owners answer, by command offset."""

    def __init__(self) -> None:
        self.replies: dict[int, Reply] = {}
        self.ids: list[str] = []
        self.gateway = GATEWAY
        self.shown: list[Frame] = []
        self.by_log = False  # frames take the log, as they do on a shared one

    def answer(self, reply_to: str, id_: str, reply: Reply, partition: int, offset: int) -> bool:
        if reply_to != LOCAL:
            return reply_to == NOBODY
        self.replies[offset] = reply
        self.ids.append(id_)
        return True

    def frames(self, out: Out, partition: int, offset: int, n: int) -> bool:
        if self.by_log:
            return False
        if out.key is not None and self.gateway.endswith(out.key.decode()):
            self.shown.append(parse_frame(out.value, out.headers))
        return True

    def holds(self, gateway: str) -> bool:
        return gateway == self.gateway

    def stopped(self, partition: int, error: BaseException) -> None:
        """Nobody waits here."""


class Timed:
    """A story's time, which is virtual."""

    skew_ms = 0  # of the wall clock, as the story has it jump

    def clock_ms(self) -> int:
        return START_MS + self.skew_ms + int(asyncio.get_running_loop().time() * 1000)

    async def until(self, true: Callable[[], object]) -> None:
        """Let time go on until something holds; 200 s at most."""
        async with asyncio.timeout(200):
            while not true():  # noqa: ASYNC110 - any condition; the time is virtual
                await asyncio.sleep(0.001)


class Reign(Timed):
    """`send` appends a command and gives its offset; `told` waits for its answer."""

    def __init__(
        self,
        kinds: Mapping[str, type[DurableObject]],
        *,
        shared: bool = False,
        partitions: int = 1,
        bounds: PartitionBounds | None = None,
        faults: Faults | None = None,
        hidden: frozenset[int] = frozenset(),
    ) -> None:
        self.uuids = count()
        self.seen: list[Any] = []
        self.migrations: tuple[Step, ...] = ()
        self.broker = MemoryBroker(
            partitions, ordered=not shared, exclusive=not shared, clock_ms=self.clock_ms, faults=faults
        )
        self.log: MemoryLog = Gappy(self.broker, hidden)
        self.doors = Doors()
        self.store = MemoryStore()
        self.bounds = bounds
        self.charged: dict[int, int] = {}
        self.careful = False
        self.seal = UNSEALED
        self.registry = Registry(
            {name: ObjectType(name, cls) for name, cls in kinds.items()},
            Env({"seen": self.seen, "reign": self}),
        )
        self.errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.errors.append(context))

    async def begin(self, state: OwnerState = OwnerState.SERVING) -> None:
        """Own partition 0 and serve it, or come to another end."""
        await bootstrap_log(self.log, "app", "app-uuid")
        ports = Ports(
            Transport(self.log, self.doors, self.clock_ms, Random(1), self.seal),
            TurnServices(self.registry, after_crash=self.careful),
            RecoveryServices(
                lambda: f"u{next(self.uuids)}",
                self.migrations,
                crash_counts=lambda partition, end: self.charged,
            ),
            Identity(app_uuid="app-uuid"),
            GatewayWatch(),
        )
        tables = Tables(self.store, 0, exclusive=self.log.exclusive)
        self.owner = Owner(ports, tables, self.bounds)
        self.living = asyncio.create_task(live(self.owner))
        await self.until(lambda: self.owner.state not in (OwnerState.NEW, OwnerState.BEGINNING))
        assert self.owner.state is state, self.owner.error

    async def end(self) -> None:
        """This reign is over; the log and what was written to the store stay."""
        self.living.cancel()
        self.owner.end_epoch()
        await asyncio.wait((self.living,))

    async def take_over(self) -> None:
        """Another node, with a store of its own, claims the partition while this
        one's owner lives (shared logs).
        """
        self.log, self.store = Gappy(self.broker, frozenset()), MemoryStore()
        await self.begin()

    async def until_ms(self, time_ms: int) -> None:
        """Let time go on until the wall clock says so."""
        await asyncio.sleep((time_ms - self.clock_ms()) / 1000)

    def send(self, name: str, method: str, *args: Any, kind: str = "Thing", **envelope: Any) -> int:
        """Append a call; its offset."""
        command = Command(
            f"{kind}/{name}", CALL, method, "", (), call_body(method, list(args), {}), "id", LOCAL, **envelope
        )
        return self.append(Record(*command_record(command)))

    def append_raw(self, key: bytes | None, value: bytes | None, headers: Headers = ()) -> int:
        return self.append(Record(key, value, headers))

    def append(self, record: Record) -> int:
        stream = self.broker.streams[Topic.COMMANDS, 0]
        offset = stream.end + len(self.log._queues.get(stream, ()))  # where it will land
        self.log.append(Topic.COMMANDS, 0, record)
        return offset

    async def told(self, *offsets: int) -> list[Reply]:
        """The answers of these commands, in this order."""
        await self.until(lambda: all(offset in self.doors.replies for offset in offsets))
        return [self.doors.replies[offset] for offset in offsets]

    async def call(self, name: str, method: str, *args: Any, **envelope: Any) -> Reply:
        """Append a call and wait for its answer."""
        return (await self.told(self.send(name, method, *args, **envelope)))[0]

    async def records(self, topic: Topic) -> list[LogRecord]:
        """All durable records of a topic."""
        end = (await self.log.bounds(topic, 0)).end
        return [each async for chunk in self.log.read(topic, 0, 0, end) for each in chunk]

    async def entries(self) -> list[Entry]:
        """What the journal says that turns did, in order."""
        found = [decode_record(each.value) for each in await self.records(Topic.JOURNAL)]
        return [each.entry for each in found if isinstance(each, EntryRecord)]

    def value(self, name: str, field: str) -> Any:
        """What the tables hold."""
        encoded = self.owner.tables.values.get(f"Thing/{name}", field)
        return None if encoded is None else decode_value(encoded)

    async def check(self) -> None:
        """Everything is done, and the tables are the fold of the journal."""
        await self.until(lambda: self.owner.idle)
        end = (await self.log.bounds(Topic.COMMANDS, 0)).end
        assert self.owner.tables.done.mark == end, "a command was left behind"
        assert self.owner.state is OwnerState.SERVING
        assert self.errors == []
        again = Tables(MemoryStore(), 0, exclusive=self.log.exclusive)
        for each in await self.records(Topic.JOURNAL):
            again.apply(each.offset, each.value)
        for tables in (self.owner.tables, again):
            tables.write_all()
        assert rows(self.owner.tables) == rows(again)


def settled(owner: Owner, key: str, act: str, alarm: str = "default") -> Record:
    """The command by which an operator drives a parked alarm again, or drops it."""
    row = owner.tables.alarms.get(key, alarm)
    assert row is not None
    assert row.parked
    asked = Act(str(Place(OF_ALARM, row.set_at)))
    command = Command(key, ADMIN, act, body=msgspec.json.encode(asked), reply_to=NOBODY)
    return Record(*sealed_record(command, owner.ports.transport.seal))


def rows(tables: Tables) -> list[tuple[bytes, bytes]]:
    """Every row of the store under the tables."""
    return list(tables.store.scan(b"\0", b"\xff\xff"))


class Gappy(MemoryLog):
    """A log whose tail does not show some offsets of the commands, as behind aborted transactions."""

    def __init__(self, broker: MemoryBroker, hidden: frozenset[int]) -> None:
        super().__init__(broker, "n")
        self.hidden = hidden

    def tail(self, topic: Topic, partition: int, start: int, deliver: Callable[[LogRecord], None]) -> Any:
        def shown(record: LogRecord) -> None:
            if topic is not Topic.COMMANDS or record.offset not in self.hidden:
                deliver(record)

        return super().tail(topic, partition, start, shown)


def story(
    kind: type[DurableObject],
    told: Callable[[Reign], Awaitable[None]],
    *,
    check: bool = True,
    kinds: Sequence[str] = ("Thing",),
    migrations: tuple[Step, ...] = (),
    **options: Any,
) -> None:
    """Begin a reign over `Thing`s of this class, tell the story, and check how it ended."""

    async def main() -> None:
        reign = Reign(dict.fromkeys(kinds, kind), **options)
        reign.migrations = migrations
        await reign.begin()
        await told(reign)
        if check:
            await reign.check()
        await reign.end()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
