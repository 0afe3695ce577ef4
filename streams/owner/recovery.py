"""Recovery: how an owner begins, in one way after a start, a take-over, a lost append and a crash.

    without state: ingest a snapshot, or what a rebuild helper folded -> check bounds -> fold the journal
    to its end -> check rivals and the secret -> claim -> fold up to the claim -> append the migrations that
    are missing -> emit again what may not have arrived -> take commands from the watermark on

`live` runs it, waits until the epoch ends, and begins again or stops.

Laws
- The epoch is the offset of our claim. Everything before it is read before the first command is taken.
- Nothing is served from a store that is not a fold of this log: the partition stops and names both sides.
  [test_state_errors.py]
- An unknown outcome is resolved by reading and claiming again, with back-off. A claim names the epoch that it
  follows, and is void behind any other: what a rival claimed since our last claim, seen or not, fences us.
  [test_fencing.py]
- A fenced owner stops and names the node that claimed; it claims again only when `live` is called again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from perdure.schemas.backoff import Backoff
from perdure.schemas.commands import parse_admitted
from perdure.schemas.errors import (
    AskAgain,
    CallerError,
    ConfigError,
    Fenced,
    LogCorrupt,
    OperatorError,
    OutcomeUnknown,
    PerdureError,
)
from perdure.schemas.journal import (
    NO_COMMAND,
    Claim,
    EntryRecord,
    Header,
    Migration,
    NoOp,
    decode_record,
    in_runs,
)
from perdure.schemas.migrations import Step, missing
from perdure.schemas.replies import UNAVAILABLE, error_reply
from perdure.schemas.seal import fingerprint, id_of
from perdure.streams import failpoints
from perdure.streams.journal.bootstrap import check_topics
from perdure.streams.journal.reader import JournalReader
from perdure.streams.log.base import Bounds, Topic
from perdure.streams.owner.bounds_check import check_journal, check_start, trimmed_from_outside
from perdure.streams.owner.fence_check import claim_at, fenced
from perdure.streams.owner.log_lines import log_attempt
from perdure.streams.owner.owner import PASSING, Owner
from perdure.streams.state.fold import check_same_place, finish_removal, recall_end
from perdure.streams.state.offsets import Watermark
from perdure.streams.transfer.import_objects import Destination, check_moves, move_in
from perdure.streams.transfer.steps import append_step, resolve
from perdure.streams.turns.ports import OwnerState
from perdure.streams.turns.supervision.internal_faults import broken

_logger = logging.getLogger("perdure")
RETRY_S = (0.05, 5.0)  # first and longest pause before an attempt is made again
LASTING_S = 30.0  # an epoch that lasted so long was a success: what ends it counts as a first failure


async def live(owner: Owner) -> None:
    """Own the partition until it is fenced or must stop; `owner.state` and `owner.error` say which.

    Calling it names this node as the partition's owner: it takes the partition, once, from the node that has
    it.
    """
    owner.follows = None
    backoff, loop = Backoff(*RETRY_S, owner.ports.transport.random), asyncio.get_running_loop()
    try:
        while True:
            owner.restart.clear()
            owner.enter(OwnerState.BEGINNING, owner.error)
            try:
                await begin(owner)
                began_s = loop.time()
                await owner.restart.wait()
                if loop.time() - began_s >= LASTING_S:
                    backoff.reset()
                assert owner.error is not None
                raise owner.error
            except PASSING as error:
                owner.error = error
                owner.end_epoch()
                pause_s = backoff.failed()
                if backoff.worth_logging:
                    log_attempt(owner, backoff.attempts, error)
                await asyncio.sleep(pause_s)
    except Fenced as error:
        owner.end_epoch()
        owner.enter(OwnerState.FENCED, error)
    except OperatorError as error:
        owner.end_epoch()
        owner.enter(OwnerState.STOPPED, error)
        owner.ports.transport.ingress.stopped(owner.partition, error)
        owner.ports.transport.pending_calls.stopped(owner.partition, error)


async def begin(owner: Owner) -> None:
    """Claim the partition and fold up to the claim. Raises `OutcomeUnknown`, `LogCorrupt` and its kin."""
    try:
        await _begin(owner)
    except PerdureError:
        raise
    except Exception as error:
        raise broken(owner.partition, error) from error


async def _begin(owner: Owner) -> None:
    log, tables, partition = owner.log, owner.tables, owner.partition
    await owner.ports.recovery.ingest(tables)
    journal = await log.bounds(Topic.JOURNAL, partition)
    commands = await log.bounds(Topic.COMMANDS, partition)
    await check_journal(owner, journal)
    tables.check_against(owner.ports.identity.app_uuid, log.partitions, journal.end, commands.end)
    owner.turns.charged = owner.ports.recovery.crash_counts(partition, commands.end)
    await _fold_up_to(owner, journal.end)  # a journal that cannot be read is left untouched: no claim on it
    check_start(owner, journal.start)
    await _check_folded(owner, journal, commands)
    # nor if the configuration does not follow from the journal, or transfers objects that are not there
    await check_moves(
        owner.ports.recovery.foreign_apps, missing(tables.steps, owner.ports.recovery.migrations)
    )
    await _see_rivals(owner)
    owner.counts.claims += 1
    ports = owner.ports
    await _check_secret(owner, commands.end)
    sealed_from = tables.meta.sealed_from
    if sealed_from < 0:  # the first owner that has a secret: from here on only signed commands count
        sealed_from = (await log.bounds(Topic.COMMANDS, partition)).end
    me = ports.recovery.new_uuid(), ports.identity.node, ports.identity.host, ports.identity.pid
    mine = ports.transport.seal.id, sealed_from, ports.identity.code
    claim = Claim(*me, owner.follows, dict(log.topic_ids), *mine)
    owner.claims.append(claim.uuid)
    failpoints.hit("owner.before_claim")
    epoch = await _append(owner, claim)
    failpoints.hit("owner.claimed")
    again = await _fold_as_ours(owner, epoch + 1, epoch)
    owner.follows = epoch
    for step in missing(tables.steps, owner.ports.recovery.migrations):
        again = await _migrate(owner, step, epoch)
    # calls of a predecessor lie below: it had confirmed before our claim that it still owned the partition
    owner.turns.reruns.begin((await log.bounds(Topic.COMMANDS, partition)).end)
    owner.journal.own(tables.reader.position)
    owner.output.begin(tables.meta.low, tables.out_position.offset)
    await _emit_again(owner, again, tables.reader.offset)
    if not owner.journal.open:  # the node's producer was dropped meanwhile: nothing could be appended
        raise OutcomeUnknown(f"partition {partition}: the claim's producer was lost before it served")
    owner.serve()


async def _check_folded(owner: Owner, journal: Bounds, commands: Bounds) -> None:
    """Check what is folded up to the journal's end against the commands; see `Tables.check_against`."""
    log, partition, tables = owner.log, owner.partition, owner.tables
    tables.check_against(owner.ports.identity.app_uuid, log.partitions, journal.end, commands.end)
    if commands.start > tables.done.mark:
        # an owner that serves may have trimmed them meanwhile: what it did before is in the journal
        await _fold_up_to(owner, (await log.bounds(Topic.JOURNAL, partition)).end)
        if commands.start > tables.done.mark:
            raise trimmed_from_outside(partition, commands.start, tables.done.mark)


async def _see_rivals(owner: Owner) -> None:
    """Have our next claim follow the newest one that is folded.

    Raises `Fenced` if a rival has claimed since our last, `LogCorrupt` if the topics are not those that it
    names.
    """
    newest = owner.tables.reader.epoch
    if newest >= 0 and (owner.log.topic_ids or owner.follows not in (None, newest)):
        base = owner.tables.base
        if base is not None and newest < base.start:
            claim = Claim("", "unknown, whose claim was trimmed", topics=base.topics)
        else:
            claim = await claim_at(owner.log, owner.partition, newest)
        if owner.follows not in (None, newest) and claim.uuid not in owner.claims:
            raise fenced(owner.partition, claim, newest)
        check_topics(owner.log, owner.partition, claim)
    owner.follows = newest


async def _check_secret(owner: Owner, end: int) -> None:
    """Raises `ConfigError` if commands below `end` are sealed with a secret that this node does not have.

    It would take them for forgeries, and drop messages and calls that perdure owes.
    """
    tables, seal = owner.tables, owner.ports.transport.seal
    name = tables.meta.seal
    if seal.settles(name):
        return
    async for chunk in owner.log.read(Topic.COMMANDS, owner.partition, tables.done.mark, end):
        for record in chunk:
            if record.offset not in tables.done and id_of(record.headers) == name:
                raise ConfigError(
                    f"partition {owner.partition}: commands that are not done yet (one at offset {record.offset}) are "
                    f"sealed with the app's secret {name}, which this node does not have (it has {seal.id}): copy the "
                    "file `secret` from the data directory of the node that ran before, or set PERDURE_SEAL_SECRET to "
                    f"that secret. If it is lost, PERDURE_SEAL_LOST={name} starts, and they become dead letters"
                )


async def _append(owner: Owner, record: Claim) -> int:
    appended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    owner.journal.begin(record, lambda outcome: resolve(appended, outcome))
    return await appended


_Again = list[tuple[int, EntryRecord | NoOp]]


async def _migrate(owner: Owner, step: Step, epoch: int) -> _Again:
    """Append one step and fold up to it; returns what `_fold_as_ours` returns.

    Raises `OutcomeUnknown`, `Fenced`.
    """
    tables = owner.tables
    empty = []
    to = Destination(owner.log, owner.journal, tables, owner.ports.recovery.foreign_apps)
    for namespace, _, script in step.transferred:
        imported = await move_in(to, step, namespace)
        await _fold_as_ours(owner, imported.end, epoch)
        if not imported.whole:
            raise OutcomeUnknown(f"partition {owner.partition}: {namespace} was imported only in part")
        if not imported.available:
            empty.append((namespace, script))
    offset = await append_step(owner.journal, tables.reader.name, tables.reader.position, step)
    again = await _fold_as_ours(owner, offset + 1, epoch)
    for namespace, script in empty if owner.partition == 0 else ():  # logged once, not by each partition
        text = "migration %r: %s begins empty: of the app %s nothing is there (for its data directory set data = …)"
        _logger.warning(text, step.tag, namespace, script)
    return again


async def _fold_as_ours(owner: Owner, end: int, epoch: int) -> _Again:
    """As `_fold_up_to`, with our claim at `epoch`. Raises `Fenced` if a rival's counts instead, or is newer.

    Nothing is appended behind one, though all that was to be there may be: a rival journals the same steps.
    """
    again = await _fold_up_to(owner, end)
    newest = owner.tables.reader.epoch
    if newest != epoch:
        claim = await claim_at(owner.log, owner.partition, newest)
        if claim.uuid in owner.claims:
            raise OutcomeUnknown(
                f"partition {owner.partition}: an earlier claim of this node landed late, at offset {newest}"
            )
        raise fenced(owner.partition, claim, newest)
    return again


async def _fold_up_to(owner: Owner, end: int) -> _Again:
    """Fold the journal up to `end`; returns the records from the output watermark on, to be emitted again."""
    tables, log = owner.tables, owner.log
    await finish_removal(tables)
    start = tables.out_position
    before = JournalReader(tables.reader.name, start, exclusive=log.exclusive)
    fold_from = tables.reader.offset
    vouched = fold_from == start.offset  # True once the journal has led to where the state stands
    again: deque[tuple[int, EntryRecord | NoOp]] = deque()  # those below the output watermark are dropped
    async for chunk in log.read(Topic.JOURNAL, owner.partition, start.offset, end):
        first = chunk[0].offset
        counts = []  # decoded records are dropped at once, the few kept ones decoded again: reused memory is fast
        for each in chunk:
            if each.offset >= tables.reader.offset:
                if not vouched:
                    check_same_place(tables, before)
                    vouched = True
                record = tables.apply(each.offset, each.value, in_pieces=True)
                if type(record) is Migration:
                    await finish_removal(tables)
            else:
                record = recall_end(tables, before, each)
            counts.append(record is not None)
        if first == 0:
            _check_header(owner, chunk[0].value)
        out = tables.meta.out
        while again and again[0][0] < out:
            again.popleft()
        for at in range(max(out - first, 0), len(chunk)):
            record = decode_record(chunk[at].value) if counts[at] else None
            if isinstance(record, (EntryRecord, NoOp)) and _may_emit(record):
                again.append((first + at, record))
        owner.ports.recovery.progress(
            owner.partition, chunk[-1].offset + 1 - start.offset, end - start.offset
        )
        while tables.write_memtable():  # noqa: ASYNC110 - this yields between pieces, it does not wait
            await asyncio.sleep(0)
    if tables.reader.offset != end:
        raise LogCorrupt(
            f"{tables.reader.name}: it ended at offset {tables.reader.offset}, {end} was expected"
        )
    if not vouched:
        check_same_place(tables, before)
    return list(again)


def _may_emit(record: EntryRecord | NoOp) -> bool:
    """True if the record may have output. Imported objects have none, and there may be many of them."""
    return isinstance(record, NoOp) or bool(record.done) or record.entry.command != NO_COMMAND


def _check_header(owner: Owner, value: bytes | None) -> None:
    header, ours = decode_record(value), owner.ports.identity
    assert isinstance(header, Header)  # the fold refuses any other
    expected = (ours.app, ours.app_uuid, owner.partition, owner.log.partitions)
    actual = (header.app, header.app_uuid, header.partition, header.partitions)
    if actual != expected:
        raise LogCorrupt(
            f"{owner.tables.reader.name}: its header says app {actual[0]!r} #{fingerprint(actual[1])}, "
            f"partition {actual[2]} of {actual[3]}; this node is for {expected[0]!r} #{fingerprint(expected[1])}, "
            f"partition {expected[2]} of {expected[3]}"
        )


async def _emit_again(owner: Owner, again: _Again, end: int) -> None:
    """Emit everything above the watermarks once more, under the same message ids."""
    output, done, meta = owner.output, owner.tables.done, owner.tables.meta
    completions = {
        offset: at for at, record in again for offset in in_runs(record.done) if offset >= meta.low
    }
    entries = {at: record.entry for at, record in again if isinstance(record, EntryRecord)}
    held = completions.keys() | {entry.command for entry in entries.values()}
    _count_as_emitted(output.commands, [(meta.low, done.mark), *done.runs()], sorted(held))
    await _answer_completions(owner, completions)
    for at in range(owner.tables.out_position.offset, end):
        entry = entries.get(at)
        if entry is not None and entry.command >= meta.low:
            output.entries((entry,), at)
        else:
            output.passed(at)


def _count_as_emitted(commands: Watermark, runs: list[tuple[int, int]], held: list[int]) -> None:
    """Count the commands of the done `runs` as delivered, but for `held`, in order, which may have output."""
    at = 0
    for first, end in runs:
        while at < len(held) and held[at] < end:
            if held[at] >= first:
                commands.add_run(first, held[at] - first)
                first = held[at] + 1
            at += 1
        commands.add_run(first, end - first)


async def _answer_completions(owner: Owner, completions: dict[int, int]) -> None:
    """Answer commands whose answers were lost with their owner: nothing changed, the caller may ask again."""
    output, log = owner.output, owner.log
    waiting = dict(completions)
    if completions and not log.exclusive:  # on an exclusive log the callers went with the process
        error = AskAgain("its answer was lost with the partition's owner; nothing was changed: ask again")
        reply = error_reply(UNAVAILABLE, error.code, str(error))
        async for chunk in log.read(Topic.COMMANDS, owner.partition, min(completions), max(completions) + 1):
            for record in chunk:
                if record.offset not in waiting:
                    continue
                try:
                    command = parse_admitted(
                        record.key, record.value, record.headers, owner.ports.transport.rules
                    )
                except CallerError:
                    continue  # not a command: an entry answered it
                if command.forwarded:
                    continue  # the copy of a forward: the entry of the first one answers it
                at = waiting.pop(record.offset)
                output.done(command.reply_to, command.key, command.id, reply, record.offset, at)
    for offset in waiting:
        output.commands.add(offset)
