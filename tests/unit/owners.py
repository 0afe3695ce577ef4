"""All owners of a few partitions, on virtual time, for stories about objects that call each other.

Every story ends with the same check: everything is done, and the tables of each partition are what a replay
of its journal from zero gives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from tests.unit.harness import APP_UUID, Chaos, Fates, Harness, run_story

from perdure.api.testing.process import Process
from perdure.objects.durable import Binding, DurableObject, Env
from perdure.objects.registry import ObjectType, Registry
from perdure.objects.rpc import methods_of
from perdure.schemas.commands import CALL, LOCAL, Command, call_body, command_record, sealed_record
from perdure.schemas.journal import Entry
from perdure.schemas.keys import partition_of
from perdure.schemas.replies import OK, Reply
from perdure.schemas.values import decode_value
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.log.base import Record, Topic
from perdure.streams.log.memory.log import MemoryLog
from perdure.streams.owner.owner import Owner
from perdure.streams.turns.object_quotas import ObjectQuotas
from perdure.streams.turns.ports import UNSEALED, OwnerState, PartitionBounds

__all__ = ["Chaos", "Fates", "Owners", "story"]


class Owners(Harness):
    """`send` appends a call and returns its id, `replies` waits; `crash` and `begin` are a restart."""

    def __init__(
        self,
        kind: type[DurableObject],
        *,
        shared: bool = False,
        partitions: int = 3,
        bounds: PartitionBounds | None = None,
        makers: ObjectQuotas | None = None,
    ) -> None:
        self.faults = Fates()
        super().__init__(shared=shared, partitions=partitions, faults=self.faults)
        self.bounds = bounds
        self.makers = makers
        self.registry = Registry(
            {"Thing": ObjectType("Thing", kind)},
            Env(
                {"seen": self.seen, "harness": self, "THINGS": Binding("Thing", methods_of(kind)), "round": 0}
            ),
        )
        self.logs: list[MemoryLog] = []
        self.by_partition: dict[int, Owner] = {}
        self.processes: list[Process] = []
        self._ids = count()
        self._nodes = count()

    async def begin(self, *own: int) -> None:
        """A process starts, claims every partition (or those given) and serves it."""
        node = f"n{next(self._nodes)}"
        self.log = MemoryLog(self.broker, node)
        self.logs.append(self.log)
        await bootstrap_log(self.log, "app", APP_UUID)
        process = self.process(node, partitions=own or None, bounds=self.bounds, object_quotas=self.makers)
        self.ports = process.ports
        self.by_partition.update((owner.partition, owner) for owner in process.owners)
        self.processes.append(process)
        process.begin()
        await self.until(lambda: all(owner.state is OwnerState.SERVING for owner in self.owners))

    @property
    def owners(self) -> list[Owner]:
        """The owner that claimed each partition last."""
        return [self.by_partition[p] for p in range(self.partitions)]

    async def crash(self) -> None:
        """All processes die: what was not durable is forgotten."""
        for log in self.logs:
            log.kill()
        for process in self.processes:
            await process.end()
        self.processes.clear()
        if self.broker.ordered:
            self.broker.crash(keep_in_flight=False)

    async def end(self, owner: Owner) -> None:
        """The process of this owner ends."""
        process = next(each for each in self.processes if owner in each.owners)
        self.processes.remove(process)
        await process.end()

    def place(self, name: str) -> int:
        return partition_of(f"Thing/{name}", self.partitions)

    def name_in(self, partition: int, prefix: str = "x") -> str:
        """The name of an object that lives in this partition."""
        return next(f"{prefix}{n}" for n in count() if self.place(f"{prefix}{n}") == partition)

    def owner_of(self, name: str) -> Owner:
        return self.owners[self.place(name)]

    def send(self, name: str, method: str, *args: Any, **envelope: Any) -> str:
        """Append a call; its id."""
        id_ = f"story{next(self._ids)}"
        body = call_body(method, list(args), {})
        command = Command(f"Thing/{name}", CALL, method, body=body, id=id_, reply_to=LOCAL, **envelope)
        record = sealed_record(command, UNSEALED) if command.internal else command_record(command)
        self.log.append(Topic.COMMANDS, self.place(name), Record(*record))
        return id_

    async def call(self, name: str, method: str, *args: Any, **envelope: Any) -> Reply:
        """Append a call and wait for its answer."""
        return (await self.replies(self.send(name, method, *args, **envelope)))[0]

    async def result(self, name: str, method: str, *args: Any, **envelope: Any) -> bytes:
        """The JSON text that a call which succeeds returns."""
        reply = await self.call(name, method, *args, **envelope)
        assert reply.outcome == OK, reply
        return reply.body[len(b'{"result":') : -1]

    def value(self, name: str, field: str = "count") -> Any:
        """What the tables hold."""
        encoded = self.owner_of(name).tables.values.get(f"Thing/{name}", field)
        return None if encoded is None else decode_value(encoded)

    async def entries(self, name: str) -> list[Entry]:
        """The entries of an object in the journal, in order."""
        return [each for each in await self.journal(self.place(name)) if each.key == f"Thing/{name}"]

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
            await self.check_fold(owner.tables)


def story(
    kind: type[DurableObject],
    steps: Callable[[Owners], Awaitable[None]],
    *,
    check: bool = True,
    **options: Any,
) -> None:
    """Begin over `Thing`s of this class, run the steps of the story, and check how it ended."""

    async def main() -> None:
        harness = Owners(kind, **options)
        await harness.begin()
        await steps(harness)
        if check:
            await harness.check()
        await harness.crash()

    run_story(main)
