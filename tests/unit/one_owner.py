"""One owner on a log in memory, on virtual time.

Every story ends with the same check: the tables are what a replay of the journal from zero gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from tests.unit.harness import APP_UUID, GATEWAY, HOUR_MS, START_MS, Gappy, Harness, rows, run_story

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
from perdure.schemas.migrations import Step
from perdure.schemas.replies import Reply
from perdure.schemas.values import decode_value
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.log.base import Headers, Record, Topic
from perdure.streams.log.memory.broker import Faults
from perdure.streams.owner.owner import Owner
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.ports import OwnerState, PartitionBounds

__all__ = ["GATEWAY", "HOUR_MS", "START_MS", "OneOwner", "rows", "settled", "story"]


class OneOwner(Harness):
    """`send` appends a command and returns its offset; `replies` waits for the replies."""

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
        super().__init__(shared=shared, partitions=partitions, faults=faults, gateway=GATEWAY)
        self.migrations: tuple[Step, ...] = ()
        self.log = Gappy(self.broker, hidden)
        self.bounds = bounds
        self.charged: dict[int, int] = {}
        self.careful = False
        self.registry = Registry(
            {name: ObjectType(name, cls) for name, cls in kinds.items()},
            Env({"seen": self.seen, "harness": self}),
        )

    async def begin(self, state: OwnerState = OwnerState.SERVING) -> None:
        """Own partition 0, and reach this state."""
        await bootstrap_log(self.log, "app", APP_UUID)
        process = self.process(
            "node",
            partitions=(0,),
            bounds=self.bounds,
            after_crash=self.careful,
            migrations=self.migrations,
            charged=self.charged,
        )
        process.begin()
        (self.owner,), (self.living,) = process.owners, process.lives
        await self.until(lambda: not process.starting)
        assert self.owner.state is state, self.owner.error

    async def end(self) -> None:
        """The owner ends; the log and what was written to the store stay."""
        self.living.cancel()
        self.owner.end_epoch()
        await asyncio.wait((self.living,))

    async def take_over(self) -> None:
        """Another node, with a store of its own, claims the partition while this
        one's owner lives (shared logs).
        """
        self.log, self.store = Gappy(self.broker, frozenset()), MemoryStore()
        await self.begin()

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

    async def call(self, name: str, method: str, *args: Any, **envelope: Any) -> Reply:
        """Append a call and wait for its answer."""
        return (await self.replies(self.send(name, method, *args, **envelope)))[0]

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
        await self.check_fold(self.owner.tables)


def settled(owner: Owner, key: str, act: str, alarm: str = "default") -> Record:
    """The command by which an operator drives a parked alarm again, or drops it."""
    row = owner.tables.alarms.get(key, alarm)
    assert row is not None
    assert row.parked
    request = Act(str(Place(OF_ALARM, row.set_at)))
    command = Command(key, ADMIN, act, body=msgspec.json.encode(request), reply_to=NOBODY)
    return Record(*sealed_record(command, owner.ports.transport.seal))


def story(
    kind: type[DurableObject],
    steps: Callable[[OneOwner], Awaitable[None]],
    *,
    check: bool = True,
    kinds: Sequence[str] = ("Thing",),
    migrations: tuple[Step, ...] = (),
    **options: Any,
) -> None:
    """Let an owner of `Thing`s of this class begin, run the steps of the story, and check how it ended."""

    async def main() -> None:
        harness = OneOwner(dict.fromkeys(kinds, kind), **options)
        harness.migrations = migrations
        await harness.begin()
        await steps(harness)
        if check:
            await harness.check()
        await harness.end()

    run_story(main)
