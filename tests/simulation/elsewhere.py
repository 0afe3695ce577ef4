"""The other app, a class of which moves in: what its objects hold changes whenever nobody reads it."""

from __future__ import annotations

from random import Random
from typing import Any

from perdure.schemas.commands import NOBODY
from perdure.schemas.effects import AlarmChange
from perdure.schemas.journal import Entry, NoOp
from perdure.schemas.keys import object_key, partition_of
from perdure.schemas.migrations import Step
from perdure.schemas.replies import OK, Reply
from perdure.schemas.values import encode_value
from perdure.streams.journal.reader import Position
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.transfer.export_objects import ForeignObjects

THERE = "There"  # the namespace over there
PARTITIONS = 2
_NAMES = [str(number) for number in range(8)]  # clients ask for the first four

Holding = tuple[dict[str, Any], int | None]  # values, and when its alarm is due


class Elsewhere:
    """`told`: what each node found here, by the node's name: the objects by their names."""

    def __init__(self, random: Random, start_ms: int) -> None:
        self.told: dict[str, dict[str, Holding]] = {}
        self._random = random
        self._start_ms = start_ms
        self._objects: dict[str, Holding] = {}

    async def read(self, node: str, namespace: str, partitions: int) -> ForeignObjects | None:
        """A node opens it: nothing changes until that one is gone. None: nobody
        told it where the data are.
        """
        if node not in self.told:
            self._change()
            known = self._random.random() < 0.8
            self.told[node] = dict(self._objects) if known else {}
        if not self.told[node]:
            return None
        tables = [self._tables(self.told[node], partition) for partition in range(PARTITIONS)]
        source = ForeignObjects("elsewhere", THERE, namespace, tables, partitions)
        await source.find()
        return source

    def _change(self) -> None:
        for name in _NAMES:
            roll = self._random.random()
            if roll < 0.3:
                self._objects.pop(name, None)
            elif roll < 0.8:
                values = {"count": self._random.randrange(100), "token": self._random.getrandbits(40)}
                values |= {f"more{n}": n for n in range(self._random.randrange(5))}
                due_ms = (
                    self._start_ms + self._random.randrange(2000) if self._random.random() < 0.3 else None
                )
                self._objects[name] = values, due_ms

    def _tables(self, objects: dict[str, Holding], partition: int) -> Tables:
        tables, entries = Tables(MemoryStore(), partition), []
        for at, (name, (values, due_ms)) in enumerate(objects.items()):
            if partition_of(key := object_key(THERE, name), PARTITIONS) != partition:
                continue
            alarms = () if due_ms is None else (AlarmChange("", due_ms),)
            puts = {each: encode_value(each, value) for each, value in values.items()}
            entry = Entry(at, key, self._start_ms, OK, Reply(OK, 204), puts, reply_to=NOBODY, alarms=alarms)
            entries.append(entry)
        tables.applied(entries, NoOp(0, 0), Position(len(entries)))
        tables.write_all()
        return tables


class Way:
    """One node's way to it, in place of `ForeignApps`."""

    def __init__(self, elsewhere: Elsewhere, node: str, partitions: int) -> None:
        self._elsewhere = elsewhere
        self._node = node
        self._partitions = partitions

    async def check(self, step: Step, namespace: str) -> None:
        """As `ForeignApps.check`: it is there."""

    async def source(self, step: Step, namespace: str) -> ForeignObjects | None:
        """As `ForeignApps.source`."""
        return await self._elsewhere.read(self._node, namespace, self._partitions)
