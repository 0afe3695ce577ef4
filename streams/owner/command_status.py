"""The status of a command, by its id: found by time in `commands`, then in the key rows or the journal.

`GET /commands/{id}` and the client's polling end here. The id carries the millisecond at which a door made
it, so the log need only be read around that time.

Laws
- A command's record lies within `SKEW_MS` of its id's millisecond in log time, or is not found.
  [test_the_time_in_the_id_bounds_the_look_up]
- One look-up reads at most `SCAN` records, in all its searches together; past that it raises `Unavailable`,
  and never reports that something is not there. On a log of one node few are read: its ids count upwards. On
  a shared log, three questions to the broker's index by time give the span, and records stamped soon after
  the id was made are read first. [test_all_that_one_look_up_reads_counts_towards_its_bound]
- All look-ups together read `RECORDS_PER_S`, for all clients: requests for invented ids may have to wait, and
  cost other requests nothing. [test_all_look_ups_together_read_at_a_pace]
- Nothing is reported before this node has confirmed that it still owns the partition, and only folded, so
  durable, state is reported. [test_an_owner_that_does_not_serve_tells_nothing]
- A journal record of an epoch that had ended when it was appended is void, here as for every reader.
  [test_a_void_entry_is_not_what_became_of_it]
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import NamedTuple

from perdure.schemas.commands import Command, parse_command, payload_hash
from perdure.schemas.errors import CallerError, KeyReused, Unavailable
from perdure.schemas.journal import EntryRecord, NoOp, decode_record, in_runs
from perdure.schemas.keys import partition_named
from perdure.schemas.replies import REJECTED, Reply, error_reply
from perdure.streams.log import log_time
from perdure.streams.log.base import Log, LogRecord, Topic
from perdure.streams.log.time_search import NEAR, first_since
from perdure.streams.owner.owner import Owner
from perdure.streams.turns.ports import OwnerState

SKEW_MS = 10_000
CLOSE_MS = 500  # a door's clock is rarely further ahead of the log's
SCAN = 200_000
RECORDS_PER_S = 100_000  # about a tenth of a processor
BURST_S = 0.2
WAITING_MAX = 100
PROOF_S = 10.0


class CommandStatus(NamedTuple):
    """A command with its offset. `done`: it has ended; `reply` is then None if it left none."""

    command: Command
    offset: int
    done: bool
    reply: Reply | None


class Pace:
    """The shared rate limit of all look-ups. Call `took` before reading more."""

    def __init__(self) -> None:
        self._due_s = 0.0  # when the budget for all records read so far is available
        self._waiting = 0

    async def took(self, records: int) -> None:
        """Count records as read and wait until more may be read.

        Raises `Unavailable` if too many wait already.
        """
        now_s = asyncio.get_running_loop().time()
        self._due_s = max(self._due_s, now_s) + records / RECORDS_PER_S
        wait_s = self._due_s - now_s - BURST_S
        if wait_s <= 0:
            return
        if self._waiting >= WAITING_MAX:
            raise Unavailable("too many commands are looked for at the moment: ask again")
        self._waiting += 1
        try:
            await asyncio.sleep(wait_s)
        finally:
            self._waiting -= 1


class _Reading:
    """The count of records that one look-up reads, in all its searches."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._read = 0

    async def took(self, records: int) -> None:
        """Count further records as read. Raises `Unavailable` past the bound."""
        self._read += records
        if self._read > SCAN:
            raise Unavailable(
                f"the look-up read {self._read} records and gave up (its bound is {SCAN}): ask the object itself, or ask "
                "again with the same idempotency key"
            )
        await self._pace.took(records)


def time_in(id_: str, partitions: int) -> tuple[int, int] | None:
    """(partition, ms) of a command's id; None for a text that is not an id of this app."""
    number, _, rest = id_.partition("-")
    ms, _, more = rest.partition("-")
    partition = partition_named(number, partitions)
    if partition is None or not more or len(ms) >= 13:
        return None
    try:
        return partition, int(ms, 16)
    except ValueError:
        return None


async def look_up(owner: Owner, id_: str, time_ms: int, pace: Pace | None = None) -> CommandStatus | None:
    """The status of the command `id_`; None if it is not in the log. Raises `Unavailable`.

    owner: the owner of its partition, which must serve.
    id_, time_ms: the id, and the time in it, near which the command is searched for.
    pace: that of all look-ups of a node; without one nothing is waited for but the log.
    """
    reading = _Reading(pace or Pace())
    await confirm_ownership(owner)
    record = await _command(owner, id_, time_ms, reading)
    if record is None:
        return None
    try:
        founding = record.offset < owner.tables.meta.sealed_from
        seal = owner.ports.transport.seal
        command = parse_command(
            record.key,
            record.value,
            record.headers,
            seal,
            founding=founding,
            rules=owner.ports.transport.rules,
        )
    except CallerError:
        return None  # a foreign record that bears an id of ours
    if record.offset not in owner.tables.done:
        return CommandStatus(command, record.offset, False, None)
    if command.client_key is not None:
        spent = owner.tables.spent_keys.get(command.key, command.principal, command.client_key)
        if spent is not None:
            reply = spent.reply
            if spent.payload_hash != payload_hash(command):
                text = f"the idempotency key {command.client_key!r} was used for another payload"
                reply = error_reply(REJECTED, KeyReused.code, text)
            return CommandStatus(command, record.offset, True, reply)
        if (command.key, command.principal, command.client_key) in owner.turns.keys_in_flight:
            return CommandStatus(
                command, record.offset, False, None
            )  # it was answered 409: the outcome of its key is open
    return CommandStatus(command, record.offset, True, await _entry(owner, record, reading))


async def confirm_ownership(owner: Owner) -> None:
    """Return once it is certain that this node still owns the partition. Raises `Unavailable`."""
    if owner.state is not OwnerState.SERVING or not owner.journal.open:
        raise Unavailable(f"partition {owner.partition} is {owner.state}: ask again")
    if owner.log.exclusive:
        return
    proved = asyncio.Event()
    owner.journal.add_barrier(proved.set)
    try:
        async with asyncio.timeout(PROOF_S):
            await proved.wait()
    except TimeoutError:
        raise Unavailable(
            f"it could not be proved that partition {owner.partition} is still ours: ask again"
        ) from None


async def _command(owner: Owner, id_: str, time_ms: int, reading: _Reading) -> LogRecord | None:
    log, partition = owner.log, owner.partition
    latest_ms = max(owner.ports.transport.clock_ms(), time_ms) + log_time.SKEW_MS
    start, end = await log.bounds(Topic.COMMANDS, partition)

    async def since(from_ms: int) -> int:
        return await first_since(log, Topic.COMMANDS, partition, start, end, from_ms, latest_ms, reading.took)

    first = await since(time_ms - SKEW_MS)
    if log.exclusive:
        first, end = await _narrowed(log, partition, id_, first, end, reading)
        spans = [(first, end)]
    else:
        close = max(first, await since(time_ms - CLOSE_MS))
        spans = [(close, await _behind(owner, time_ms + SKEW_MS, end, latest_ms)), (first, close)]
    for span in spans:
        record = await _scan(owner, id_, span, time_ms, latest_ms, reading)
        if record is not None:
            return record
    return None


async def _behind(owner: Owner, time_ms: int, end: int, latest_ms: int) -> int:
    """Where the commands stamped later than `time_ms` begin, by the log's index; `end` if it does not say."""
    indexed = await owner.log.since(Topic.COMMANDS, owner.partition, time_ms + 1)
    return end if indexed is None or indexed.time_ms > latest_ms else min(indexed.offset, end)


async def _scan(
    owner: Owner, id_: str, span: tuple[int, int], time_ms: int, latest_ms: int, reading: _Reading
) -> LogRecord | None:
    """The command `id_`, if it lies in a span of offsets.

    A record stamped too late for it ends the search.
    """
    wanted = ("id", id_.encode())
    async with aclosing(owner.log.read(Topic.COMMANDS, owner.partition, *span)) as chunks:  # type: ignore[type-var]  # all are generators
        async for chunk in chunks:
            for record in chunk:
                if time_ms + SKEW_MS < record.time_ms <= latest_ms:
                    return None
                if wanted in record.headers:
                    return record
            await reading.took(len(chunk))
    return None


async def _narrowed(
    log: Log, partition: int, id_: str, first: int, end: int, reading: _Reading
) -> tuple[int, int]:
    """The span from `first` to `end`, narrowed: a node appends its commands in the order of their numbers."""
    node, number = _number_in(id_)
    while node and end - first > NEAR:
        middle, known = (first + end) // 2, None
        async with aclosing(log.read(Topic.COMMANDS, partition, middle, min(middle + NEAR, end))) as chunks:  # type: ignore[type-var]  # all are generators
            async for chunk in chunks:
                for record in chunk:
                    its_node, its_number = _number_in(_id_of(record))
                    if its_node == node:
                        known = record.offset, its_number
                        break
                await reading.took(len(chunk))
                if known is not None:
                    break
        if known is None:
            break  # nothing of that node is here: the rest is read in order
        if known[1] > number:
            end = middle
        elif known[1] < number:
            first = known[0] + 1
        else:
            return known[0], known[0] + 1
    return first, end


def _id_of(record: LogRecord) -> str:
    return next((value.decode("latin-1") for name, value in record.headers if name == "id"), "")


def _number_in(id_: str) -> tuple[str, int]:
    """(node, number) of an id; an empty node for one that was not made by a door."""
    parts = id_.split("-")
    try:
        return (parts[2], int(parts[3], 16)) if len(parts) == 4 else ("", 0)
    except ValueError:
        return "", 0


async def _entry(owner: Owner, command: LogRecord, reading: _Reading) -> Reply | None:
    """The reply in the entry of a command that is done; None: it ended without one."""
    log, partition, offset = owner.log, owner.partition, command.offset
    start, end = await log.bounds(Topic.JOURNAL, partition)
    latest_ms = max(owner.ports.transport.clock_ms(), command.time_ms) + log_time.SKEW_MS
    since_ms = command.time_ms - SKEW_MS
    first = await first_since(log, Topic.JOURNAL, partition, start, end, since_ms, latest_ms, reading.took)
    async with aclosing(log.read(Topic.JOURNAL, partition, first, end)) as chunks:  # type: ignore[type-var]  # all are generators
        async for chunk in chunks:
            for record in chunk:
                decoded = decode_record(record.value)
                if not isinstance(decoded, (EntryRecord, NoOp)):
                    continue
                entry = decoded.entry if isinstance(decoded, EntryRecord) else None
                hit = entry is not None and entry.command == offset
                traced = hit or (decoded.done and offset in in_runs(decoded.done))
                if traced and owner.tables.counts(decoded.epoch, record.offset):
                    return entry.reply if hit and entry is not None else None
            await reading.took(len(chunk))
    return None
