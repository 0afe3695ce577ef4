"""Owners on a log in memory and on virtual time: what `one_owner.py` and `owners.py` have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from random import Random
from typing import Any

from perdure.api.testing.process import Process
from perdure.objects.registry import Registry
from perdure.schemas.commands import LOCAL, NOBODY
from perdure.schemas.effects import Out
from perdure.schemas.journal import Entry, EntryRecord, decode_record
from perdure.schemas.replies import Reply
from perdure.schemas.sockets import Frame, parse_frame
from perdure.streams.log.base import LogRecord, Topic
from perdure.streams.log.memory.broker import Faults, MemoryBroker
from perdure.streams.log.memory.log import MemoryLog
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.ports import UNSEALED, Identity
from perdure.streams.virtual_time import VirtualLoop

GATEWAY = "0/gateway.g1"
APP_UUID = "app-uuid"
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


class RecordingIngress:
    """Keeps what owners answer, by the command's id and by its offset, and the frames that they send."""

    def __init__(self, gateway: str = "") -> None:
        self.replies: dict[str | int, Reply] = {}
        self.ids: list[str] = []
        self.gateway = gateway  # whose sockets this process holds; none if it is empty
        self.shown: list[Frame] = []
        self.by_log = False  # frames take the log, as they do on a shared one

    def answer(self, reply_to: str, id_: str, reply: Reply, partition: int, offset: int) -> bool:
        if reply_to != LOCAL:
            return reply_to == NOBODY
        self.replies[offset] = self.replies[id_] = reply
        self.ids.append(id_)
        return True

    def frames(self, out: Out, partition: int, offset: int, n: int) -> bool:
        assert self.gateway, "no object here has a WebSocket"
        if self.by_log:
            return False
        if out.key is not None and self.gateway.endswith(out.key.decode()):
            self.shown.append(parse_frame(out.value, out.headers))
        return True

    def holds(self, gateway: str) -> bool:
        return gateway == self.gateway != ""

    def stopped(self, partition: int, error: BaseException) -> None:
        """Nothing waits here."""


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


class Harness:
    """A broker, a store, an app, and the processes that own its partitions; a subclass sends commands."""

    registry: Registry
    log: MemoryLog

    def __init__(
        self, *, shared: bool, partitions: int, faults: Faults | None = None, gateway: str = ""
    ) -> None:
        self.skew_ms = 0  # of the wall clock, as the story has it jump
        self.seen: list[Any] = []
        self.partitions = partitions
        self.broker = MemoryBroker(
            partitions, ordered=not shared, exclusive=not shared, clock_ms=self.clock_ms, faults=faults
        )
        self.ingress = RecordingIngress(gateway)
        self.store = MemoryStore()
        self.seal = UNSEALED
        self.errors: list[dict[str, Any]] = []
        self.uuids = count()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.errors.append(context))

    def clock_ms(self) -> int:
        return START_MS + self.skew_ms + int(asyncio.get_running_loop().time() * 1000)

    async def until(self, true: Callable[[], object]) -> None:
        """Let time go on until something holds; 200 s at most."""
        async with asyncio.timeout(200):
            while not true():  # noqa: ASYNC110 - any condition; the time is virtual
                await asyncio.sleep(0.001)

    async def until_ms(self, time_ms: int) -> None:
        """Let time go on until the wall clock shows it."""
        await asyncio.sleep((time_ms - self.clock_ms()) / 1000)

    def process(self, node: str, **options: Any) -> Process:
        """A process on `log` and `store`; `options` as of `Process`."""
        return Process(
            self.log,
            self.ingress,
            self.registry,
            self.store,
            Identity(node, app_uuid=APP_UUID),
            clock_ms=self.clock_ms,
            seal=self.seal,
            new_uuid=lambda: f"{node}-{next(self.uuids)}",
            **options,
        )

    async def replies(self, *commands: int | str) -> list[Reply]:
        """Wait for the replies to these commands (by what `send` returned), and return them in this order."""
        await self.until(lambda: all(command in self.ingress.replies for command in commands))
        return [self.ingress.replies[command] for command in commands]

    async def records(self, topic: Topic, partition: int = 0) -> list[LogRecord]:
        """All durable records of a topic."""
        end = (await self.log.bounds(topic, partition)).end
        return [each async for chunk in self.log.read(topic, partition, 0, end) for each in chunk]

    async def journal(self, partition: int = 0) -> list[Entry]:
        """The entries in the journal of a partition, in order."""
        decoded = [decode_record(each.value) for each in await self.records(Topic.JOURNAL, partition)]
        return [each.entry for each in decoded if isinstance(each, EntryRecord)]

    async def check_fold(self, tables: Tables) -> None:
        """The tables are the fold of the partition's journal, in one piece or in many."""
        whole, pieces = (
            Tables(MemoryStore(), tables.partition, exclusive=self.log.exclusive) for _ in range(2)
        )
        for at, each in enumerate(await self.records(Topic.JOURNAL, tables.partition)):
            whole.apply(each.offset, each.value)
            pieces.apply(each.offset, each.value)
            if at % 3 == 0:
                pieces.write_all()
        for each_of in (tables, whole, pieces):
            each_of.write_all()
        mine = [row for row in rows(tables) if row[0][1:3] == tables.partition.to_bytes(2, "big")]
        assert mine == rows(whole) == rows(pieces)


def rows(tables: Tables) -> list[tuple[bytes, bytes]]:
    """Every row of the store under the tables."""
    return list(tables.store.scan(b"\0", b"\xff\xff"))


def run_story(main: Callable[[], Awaitable[None]]) -> None:
    """Run a story on virtual time."""

    async def started() -> None:
        await main()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(started())
