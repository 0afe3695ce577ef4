"""The cases of `bench.growth`: what waits, and the step that must not walk all of it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from perdure.objects.durable import DurableObject, Env
from perdure.objects.registry import ObjectType, Registry
from perdure.schemas.admin import MADE, Change
from perdure.schemas.calls import Root
from perdure.schemas.config_model import Limits
from perdure.schemas.effects import AlarmChange, SocketRow
from perdure.schemas.journal import Entry, EntryRecord, Header, Migration, encode_chained, encode_unchained
from perdure.schemas.migrations import Step as MigrationStep
from perdure.schemas.replies import OK, Reply
from perdure.schemas.sockets import HEARTBEAT_KIND
from perdure.streams.journal.reader import NO_EPOCH
from perdure.streams.log.base import LogRecord, Record, Topic
from perdure.streams.log.memory.broker import MemoryBroker
from perdure.streams.log.memory.log import MemoryLog
from perdure.streams.owner.socket_watch import SILENT_S, GatewayWatch
from perdure.streams.state.rows import encode_row
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.store.rocks import RocksStore
from perdure.streams.turns.activation import NO_COMMAND, Activation, Hold, Turn
from perdure.streams.turns.eviction import Evictor
from perdure.streams.turns.pending_calls import Call, PendingCalls
from perdure.streams.turns.ports import Counts, Transport
from perdure.streams.turns.socket_events import SocketEvents
from perdure.streams.turns.turn_calls import TurnCalls
from perdure.streams.virtual_time import VirtualLoop
from perdure.testing import run, world

Step = Callable[[], object]
USED_MS = 1_800_000_000_000


class Case(NamedTuple):
    """`build(n)` makes n things that wait and gives the step that is measured `times` times."""

    name: str
    what: str
    sizes: Sequence[int]
    times: int
    build: Callable[[int], Step]


def done_ahead(n: int) -> Step:
    """One turn is slow; n commands behind it are done. The step: one more, and a cut."""
    tables = Tables(MemoryStore(), 0)
    for offset in range(1, n + 1):
        tables.done.add(offset)
    tables.memtables.open.records = 1
    tables.freeze()
    next_offset = iter(range(n + 1, 2 * n + 100_000))

    def step() -> None:
        tables.done.add(next(next_offset))
        tables.memtables.open.records = 1
        tables.freeze()

    return step


def unwritten_rows(n: int) -> Step:
    """n rows of alarms wait to be written. The step: the alarms of one object."""
    tables = Tables(MemoryStore(), 0)
    for at in range(n):
        tables.memtables.set_row(b"a" + (0).to_bytes(2, "big") + f"Thing/{at}\0".encode(), b"")
        if at % 500 == 499:
            tables.memtables.open.records = 1
            tables.freeze()
    return lambda: tables.alarms.of("Thing/none")


class Thing(DurableObject):
    """An object that does nothing."""


class _Turns:
    """The activations of one partition, as far as an eviction asks."""

    def __init__(self, busy: int, idle: int) -> None:
        self.activations: OrderedDict[str, Activation] = OrderedDict()
        self.resident_bytes = 0
        tables, kind, limits = Tables(MemoryStore(), 0), ObjectType("Thing", Thing), Limits()
        for at in range(busy + idle):
            key = f"Thing/{at}"
            activation = self.activations[key] = Activation(key, kind, tables, limits)
            activation.state._now_ms = USED_MS
            if at < busy:
                activation.running = Hold.of(activation)

    def evict(self, activation: Activation) -> None:
        del self.activations[activation.key]

    def instance_gone(self, activation: Activation) -> None: ...


class _Owner:
    def __init__(self, turns: _Turns) -> None:
        self.turns: Any = turns
        self.counts = Counts()


def _sweeper(turns: _Turns, *, short_of_memory: bool = False) -> Evictor:
    return Evictor(
        [_Owner(turns)],
        clock_ms=lambda: USED_MS + (0 if short_of_memory else 3_600_000),
        idle_s=60.0,
        object_bytes=1 << 27,
        memory_bytes=1,
        rss_bytes=lambda: 2 if short_of_memory else 0,
    )


def busy_in_front(n: int) -> Step:
    """n objects at work were used longest ago, 5,000 idle ones after them.

    The step: a sweep that evicts those.
    """
    sweeper = _sweeper(_Turns(n, 5_000))
    return sweeper.sweep


def short_of_memory(n: int) -> Step:
    """n idle objects, and memory is short. The step: a sweep, which evicts a tenth."""
    sweeper = _sweeper(_Turns(0, n), short_of_memory=True)
    return sweeper.sweep


class Hot(DurableObject):
    """Is busy for 20 ms each time."""

    async def hit(self) -> int:
        await asyncio.sleep(0.02)
        return 1


class Asker(DurableObject):
    """Calls it."""

    async def go(self) -> int:
        hit: int = await self.env.Hot.get("x").hit()
        return hit


def callers_of_one(n: int) -> Step:
    """n objects call one that takes 20 ms for each. The step: all of it, on virtual time."""

    async def main() -> None:
        async with world(Hot, Asker) as env:
            await asyncio.gather(*(env.Asker.get(f"c{each}").go() for each in range(n)))

    return lambda: run(main())


def ring_search(n: int) -> Step:
    """n turns wait for one another in a line. The step: a look whether that is a ring."""
    turns = [Turn(LogRecord(at, 0, None, None), NO_COMMAND, None, at) for at in range(n)]
    calls = [Call(turn, NO_COMMAND, 0) for turn in turns]
    for turn, call in zip(turns, calls, strict=True):
        turn.calling = TurnCalls(Root(0, turn.offset))
        turn.calling.waiting[call] = None

    class Line(PendingCalls):
        def blocker(self, call: Call) -> Turn | None:
            at = call.turn.offset + 1
            return turns[at] if at < n else None

    line = Line()
    return lambda: line.ring(calls[0])


class _Elsewhere:
    """No gateway is this process's own."""

    def holds(self, gateway: str) -> bool:
        return False


class _Watching:
    """A node that serves partitions whose objects have sockets of eight gateways of
    other nodes, which all live.
    """

    GATEWAYS = 8
    REPLIES = 5_000  # between two looks

    def __init__(self, partitions: int, sockets: int) -> None:
        self._runner = asyncio.Runner(loop_factory=VirtualLoop)
        self._runner.run(self._begin(partitions, sockets))

    async def _begin(self, partitions: int, sockets: int) -> None:
        self._broker = MemoryBroker(partitions, ordered=False, exclusive=False, clock_ms=lambda: USED_MS)
        log = MemoryLog(self._broker)
        names = [f"gateway.g{each}" for each in range(self.GATEWAYS)]
        self._records = [Record(b"k", b"a reply")] * self.REPLIES
        self._records += [Record(name.encode(), b"", (HEARTBEAT_KIND,)) for name in names]
        doors: Any = _Elsewhere()
        transport, registry = Transport(log, doors, lambda: USED_MS, Random(1)), Registry({}, Env({}))
        watch = GatewayWatch()
        for partition in range(partitions):
            tables = Tables(MemoryStore(), partition)
            head = b"w" + partition.to_bytes(2, "big")
            for at in range(sockets):
                row = SocketRow(f"0/{names[at % self.GATEWAYS]}")
                tables.memtables.set_row(head + f"Thing/{at:06}\0g.{at:08x}".encode(), encode_row(row))
            tables.memtables.open.records = 1
            tables.write_all()
            watch.begin(transport, registry, tables, SocketEvents(transport, partition))
        await asyncio.sleep(1)

    def __del__(self) -> None:
        self._runner.close()

    def look(self) -> None:
        """Replies and heartbeats come, and the node looks at them once."""
        self._broker.accept(self._broker.streams[Topic.REPLIES, 0], self._records)
        self._runner.run(asyncio.sleep(SILENT_S))


def gateways_of_partitions(n: int) -> Step:
    """n partitions with 8 sockets each. The step: a look at the gateways of other nodes."""
    return _Watching(n, 8).look


def gateways_of_sockets(n: int) -> Step:
    """n sockets in one partition. The step: a look at the gateways of other nodes."""
    return _Watching(1, n).look


class _Deleting:
    """A partition whose namespace is deleted: n objects of it have an alarm each, and a creator."""

    def __init__(self, n: int) -> None:
        self._folder = TemporaryDirectory(prefix="growth-")
        self._tables = tables = Tables(RocksStore(Path(self._folder.name)), 0)
        tables.apply(0, encode_unchained(Header("growth", "uuid", 0, 1)))
        for at in range(n):
            what: Any = {
                "alarms": (AlarmChange("", USED_MS + at),),
                "changes": (Change(MADE),),
                "principal": "me",
            }
            self._fold(EntryRecord(NO_EPOCH, at, Entry(at, f"Old/{at:06}", USED_MS, OK, Reply(OK), **what)))
            while tables.write_memtable():
                pass
        self._fold(Migration(NO_EPOCH, n, MigrationStep("v", deleted=("Old",))))

    def _fold(self, record: EntryRecord | Migration) -> None:
        reader = self._tables.reader
        self._tables.apply(reader.offset, encode_chained(record, reader.chain)[0], in_pieces=True)

    def piece(self) -> None:
        """One step of the event loop."""
        self._tables.remove_piece()
        self._tables.write_all()


def namespace_deletion(n: int) -> Step:
    """n objects with an alarm each are deleted with their namespace. The step: one of the event loop's."""
    return _Deleting(n).piece


CASES = {
    case.name: case
    for case in (
        Case(
            "done-ahead",
            "done offsets behind one slow turn: a cut",
            (10_000, 100_000, 1_000_000),
            20,
            done_ahead,
        ),
        Case(
            "unwritten-rows",
            "rows that wait to be written: one object's alarms",
            (1_000, 10_000, 50_000),
            200,
            unwritten_rows,
        ),
        Case(
            "busy-in-front", "objects at work: a sweep past them", (2_000, 20_000, 200_000), 1, busy_in_front
        ),
        Case(
            "short-of-memory",
            "idle objects: a sweep while memory is short",
            (8_000, 80_000, 800_000),
            1,
            short_of_memory,
        ),
        Case(
            "callers-of-one",
            "callers of one busy object: until all are answered",
            (250, 500, 1_000),
            1,
            callers_of_one,
        ),
        Case(
            "ring-search",
            "turns that wait for one another: a look for a ring",
            (100, 1_000, 10_000),
            5,
            ring_search,
        ),
        Case(
            "gateways-of-partitions",
            "partitions with sockets of other nodes: a look whether their gateways live",
            (1, 8, 64),
            10,
            gateways_of_partitions,
        ),
        Case(
            "namespace-deletion",
            "objects deleted with their namespace: one step of the event loop",
            (5_000, 20_000, 80_000),
            10,
            namespace_deletion,
        ),
        Case(
            "gateways-of-sockets",
            "sockets of other nodes: a look whether their gateways live",
            (100, 1_000, 10_000),
            10,
            gateways_of_sockets,
        ),
    )
}
