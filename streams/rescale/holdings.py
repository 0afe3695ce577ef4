"""The contents of a partition, as journal entries that put them into another one.

Laws
- Everything that outlives a stop is exported: values, also those that expire, alarms, also parked ones,
  WebSockets, spent client keys and the calls that hang on them, creators, pauses, and parked commands.
  [test_everything_that_an_object_has_is_there_behind_a_rescale]
- What only a turn under way needs is not: nothing is under way. [test_what_is_under_way_is_refused]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from perdure.schemas.admin import MADE, OF_ALARM, OF_COMMAND, Change, ParkedItem, Place
from perdure.schemas.commands import NOBODY
from perdure.schemas.effects import AlarmChange, AlarmRow, SocketChange
from perdure.schemas.journal import NO_COMMAND, Entry
from perdure.schemas.migrations import Step, moved_to
from perdure.schemas.replies import OK, PARKED, Reply, error_reply
from perdure.streams.state.object_scan import namespaces_of, objects_of
from perdure.streams.state.tables import Tables

ENTRY_BYTES = 1 << 20  # of values in one entry, unless one value is larger
CALLER = "@rescale"  # the principal of a kept call: which one it was is no longer known, nor needed
_COPIED = Reply(OK, 204)
_SUMMARY = "rescaled"


def own_steps(tables: Tables) -> tuple[Step, ...]:
    """The migrations of the app that have run in a partition: without the steps that a rescale ends it
    with."""
    return tuple(step for step in tables.steps if moved_to(step) is None)


def keys_of(tables: Tables) -> Iterator[str]:
    """The keys of all objects of a partition."""
    for namespace in sorted(set(namespaces_of(tables))):
        yield from objects_of(tables, namespace, "", None)


def entries_of(tables: Tables, time_ms: int) -> Iterator[Entry]:
    """The entries for all that a partition holds but its parked commands, object by object, then by kind."""
    for key in keys_of(tables):
        yield from _values(tables, key, time_ms)
        yield from _alarms(tables, key, time_ms)
        sockets = tuple(
            SocketChange(id_, row.gateway, row.tags, row.attachment, row.listener)
            for id_, row in tables.sockets.of(key).items()
        )
        if sockets:
            yield _entry(key, time_ms, sockets=sockets)
    for key, paused in tables.admin.paused.items():
        yield _entry(key, paused.since_ms, principal=paused.principal, changes=(Change("paused"),))
    for key, principal in tables.creators.all():
        yield _entry(key, time_ms, principal=principal, changes=(Change(MADE),))
    for spent in tables.spent_keys.all():
        yield _entry(
            spent.key,
            time_ms,
            spent.row.reply,
            principal=spent.principal,
            client_key=spent.client_key,
            payload_hash=spent.row.payload_hash,
        )
    for call, kept in tables.answered_calls.kept():
        yield _entry(
            kept.key,
            time_ms,
            kept.reply,
            summary=kept.summary,
            principal=CALLER,
            client_key=str(call),
            payload_hash=kept.payload_hash,
        )


def parked_commands(tables: Tables) -> Iterator[ParkedItem]:
    """The parked commands of a partition, in the order in which they were parked."""
    for place, item in tables.admin.all_parked(Place(OF_COMMAND, 0)):
        if place.kind == OF_COMMAND:
            yield item


def parked_entry(item: ParkedItem, offset: int) -> Entry:
    """The entry of a parked command whose record lies at `offset` of the new commands."""
    reply = error_reply(PARKED, item.code, item.message)
    changes = (Change("parked", record=item.record),)
    return Entry(
        offset, item.key, item.time_ms, PARKED, reply, reply_to=NOBODY, summary=item.summary, changes=changes
    )


class UnderWay(NamedTuple):
    """Something that is not done in a partition: what, and what to do."""

    what: str
    mend: str


def under_way(tables: Tables, commands_end: int) -> UnderWay | None:
    """What is still under way in a partition; None if it can be copied."""
    again = "Stop the clients, start the app until it is idle, stop it (SIGTERM), and run this again"
    if tables.done.mark < commands_end:
        held = next(iter(tables.admin.paused), None)
        if held is not None:
            again = f"{held} is paused: resume it, or skip what waits for it. {again}"
        return UnderWay(f"{commands_end - tables.done.mark} commands are not done", again)
    if tables.meta.low < commands_end:
        return UnderWay("what the last commands sent is not known to have arrived", again)
    for key in keys_of(tables):
        for name, alarm in tables.alarms.of(key).items():
            if alarm.since >= 0:
                shown = f"alarm {name!r} of {key}" if name else f"the alarm of {key}"
                mend = "Start the app until it has run; if it is parked, retry or drop it"
                return UnderWay(
                    f"{shown} has failed after it made calls, whose answers are kept for its next run", mend
                )
    return None


def _values(tables: Tables, key: str, time_ms: int) -> Iterator[Entry]:
    puts: dict[str, bytes] = {}
    size = 0
    for name, value in tables.values.scan(key, "", None):
        more = len(name.encode()) + len(value)
        if puts and size + more > ENTRY_BYTES:
            yield _entry(key, time_ms, puts=puts)
            puts, size = {}, 0
        puts[name] = value
        size += more
    if puts:
        yield _entry(key, time_ms, puts=puts)


def _alarms(tables: Tables, key: str, time_ms: int) -> Iterator[Entry]:
    waiting = []
    for name, row in tables.alarms.of(key).items():
        if not row.parked:
            waiting.append(_change(name, row))
            continue
        item = tables.admin.parked(Place(OF_ALARM, row.set_at))
        reply = _COPIED if item is None else error_reply(PARKED, item.code, item.message)
        when, summary = (time_ms, "") if item is None else (item.time_ms, item.summary)
        yield _entry(key, when, reply, summary=summary, alarms=(_change(name, row),))
    if waiting:
        yield _entry(key, time_ms, alarms=tuple(waiting))


def _change(name: str, row: AlarmRow) -> AlarmChange:
    return AlarmChange(name, row.due_ms, row.attempt, row.cron, row.zone, row.parked, row.since)


def _entry(
    key: str,
    time_ms: int,
    reply: Reply = _COPIED,
    *,
    puts: dict[str, bytes] | None = None,
    summary: str = _SUMMARY,
    principal: str = "",
    client_key: str | None = None,
    payload_hash: bytes = b"",
    alarms: tuple[AlarmChange, ...] = (),
    sockets: tuple[SocketChange, ...] = (),
    changes: tuple[Change, ...] = (),
) -> Entry:
    return Entry(
        NO_COMMAND,
        key,
        time_ms,
        OK,
        reply,
        puts or {},
        reply_to=NOBODY,
        summary=summary,
        principal=principal,
        client_key=client_key,
        payload_hash=payload_hash,
        alarms=alarms,
        sockets=sockets,
        changes=changes,
    )
