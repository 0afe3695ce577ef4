"""Producers that place keys by partitioners of their own, and what must have become of their commands.

Each misplaced command takes effect once, at its object's home, in the order in which its partition had it,
and is answered once, where its sender looks.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

from perdure.schemas.commands import FETCH, NOBODY, Command, command_record
from perdure.schemas.errors import FailedInside, PerdureError
from perdure.schemas.forwards import MOVED, origin_in
from perdure.schemas.journal import Entry
from perdure.schemas.keys import partition_of
from perdure.schemas.replies import FORWARDED, UNAVAILABLE, parse_reply
from perdure.streams.log.base import Record, Topic
from tests.simulation.oracle import Place

if TYPE_CHECKING:
    from tests.simulation.world import Run

_OPS = ("add", "add", "token", "maybe", "get", "refuse", "slow", "fail", "send", "forget", "marks")


async def stray(run: Run, crashed: type[BaseException]) -> None:
    """Append commands wherever a random partitioner says, a few in a row, some of them twice."""
    random, n, partitions = Random(f"strays of {run.seed}"), 0, run.broker.partitions
    while True:
        await asyncio.sleep(random.random() * 0.4)
        nodes = [node for node in run.nodes.values() if node.alive and node.ready]
        if not nodes:
            continue
        node, name, partition = random.choice(nodes), random.randrange(4), random.randrange(partitions)
        for _ in range(random.choice((1, 1, 5))):
            n += 1
            op, mark, other = random.choice(_OPS), f"stray-{n}", (name + random.randrange(1, 4)) % 4
            command = Command(
                f"Sample/{name}",
                FETCH,
                "POST",
                f"/{op}/{mark}/{other}",
                id=random.choice(("", mark)),
                reply_to=random.choice(("", "", f"{random.randrange(partitions)}/strays", NOBODY)),
                deadline_ms=random.choice((None, None, 300)),
                client_key=random.choice((None, None, mark)),
            )
            with suppress(crashed, PerdureError):
                for _ in range(1 + (command.client_key is not None and random.random() < 0.3)):
                    node.context.run(
                        node.log.append, Topic.COMMANDS, partition, Record(*command_record(command))
                    )


def is_noted_only(entry: Entry) -> bool:
    """True if it says of a forward that it was answered and that it changed nothing."""
    moved = any(change.what == MOVED for change in entry.changes)
    effects = entry.puts, entry.deletes, entry.outbox, entry.alarms, entry.sockets
    return moved and not any(effects)


class Forwards:
    """What the commands of a run say of forwards, fed in log order."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._strays: dict[Place, Command] = {}
        self._homes: dict[Place, list[int]] = {}  # by origin: the offsets of its copies at home

    def runs_here(self, place: Place, command: Command, entry: Entry | None) -> bool:
        """False if the command at `place` is misplaced, or the copy of a forward; checks its trace."""
        auditor, home = self._run.auditor, partition_of(command.key, self._run.broker.partitions)
        if home != place[0]:
            assert entry is not None, f"I1: {place} is misplaced, and was done without a trace"
            assert not command.forwarded, f"{place} was forwarded to a partition that is not its home"
            if entry.reply.error is not None and entry.reply.error.code == FailedInside.code:
                return False
            assert entry.outcome == FORWARDED, f"I3: {place} belongs to partition {home}, and came to {entry}"
            self._strays[place] = command
            return False
        if not command.forwarded:
            return True
        origin = origin_in(command.forwarded)[:2]
        copies = self._homes.setdefault(origin, [])
        copies.append(place[1])
        assert origin in auditor.entries, f"I7: {place} was forwarded from {origin}, which has no entry"
        self._run.counts["forwards again" if len(copies) > 1 else "forwards"] += 1
        first = auditor.entries.get((place[0], copies[0]))
        if len(copies) > 1 and first is not None and not _failed_inside(first):
            assert entry is None, f"I2: {place}, a copy of the forward of {origin}, came to {entry}"
            return False
        noted = entry is not None or any(name.startswith("fault") for name in self._run.counts)
        assert noted, f"I2: {place}, the forward of {origin}, left no entry"
        return entry is not None

    def check(self) -> None:
        """Each stray went home, in order, and was answered once; each key was spent once."""
        answers = self._answers()
        if self._run.ms_per_s == 1000:  # else keys are forgotten
            self._check_keys()
        last: dict[tuple[int, str], int] = {}
        for place, command in sorted(self._strays.items(), key=lambda each: each[0]):
            home = partition_of(command.key, self._run.broker.partitions)
            copies = self._homes.get(place)
            assert copies, f"I1: {place} was forwarded to partition {home} and never arrived"
            lane = place[0], command.key
            assert copies[0] > last.get(lane, -1), f"I3: the forward of {place} overtook an earlier one"
            last[lane] = copies[0]
            if command.reply_to == NOBODY:
                continue
            partition, key = place[0], command.key
            if command.reply_to:
                number, _, key = command.reply_to.partition("/")
                partition = int(number)
            id_ = command.id or f"{place[0]}:{place[1]}"
            entry = self._run.auditor.entries.get((home, copies[0]))
            if entry is None:
                continue  # it failed inside, and that could not be journaled
            said = answers.get((partition, key, id_), {})
            mine = {name for name, at in said.items() if at == f"{home}:{copies[0]}"}
            assert len(mine) == 1 or _failed_inside(entry), (
                f"I2: {place} was answered {len(mine)} times: {said}"
            )
            self._run.counts["forwards answered"] += 1
            self._run.counts["forwards not done"] += entry.outcome == UNAVAILABLE

    def _check_keys(self) -> None:
        entries = self._run.auditor.entries.values()
        spent = Counter(
            (each.key, each.client_key)
            for each in entries
            if (each.client_key or "").startswith("stray-")
            and each.outcome != UNAVAILABLE
            and not _failed_inside(each)
        )
        twice = {key: times for key, times in spent.items() if times > 1}
        assert not twice, f"I2: keys of strays were spent more than once: {twice}"
        self._run.counts["keys of strays"] += len(spent)

    def _answers(self) -> dict[tuple[int, str, str], dict[str, str]]:
        """By partition, key and correlation id: the ids of answers, and the commands that they name."""
        found: dict[tuple[int, str, str], dict[str, str]] = {}
        for partition in range(self._run.broker.partitions):
            for record in self._run.broker.streams[Topic.REPLIES, partition].records:
                with suppress(ValueError):
                    said = parse_reply(record.value, record.headers)
                    asked = partition, (record.key or b"").decode(), said.correlation_id
                    found.setdefault(asked, {})[said.message_id] = said.command
        return found


def _failed_inside(entry: Entry | None) -> bool:
    return entry is not None and entry.reply.error is not None and entry.reply.error.code == FailedInside.code
