"""The projections that perdure brings: `[projections] use = ["activity", "changes"]` of a configuration.

activity: for each namespace, how many turns there were, by outcome, and when the last one was.
changes: each object with its last change: under `object/KEY`, and by time under `time/MS/KEY`, newest last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from perdure.objects.projection import Projection, Table, TurnEntry, projection
from perdure.schemas.errors import ConfigError


class Activity(msgspec.Struct):
    """The turns of a namespace that left an entry: those that changed something, failed, or had a key.

    `turns` is their number, `outcomes` that of each outcome; `last_ms` is the log time of the last one, of
    object `last`.
    """

    turns: int = 0
    outcomes: dict[str, int] = {}
    last_ms: int = 0
    last: str = ""


def merged(one: Activity, other: Activity) -> Activity:
    """The activity of a namespace in two partitions."""
    outcomes = {
        name: one.outcomes.get(name, 0) + other.outcomes.get(name, 0)
        for name in one.outcomes | other.outcomes
    }
    newer = one if one.last_ms >= other.last_ms else other
    return Activity(one.turns + other.turns, outcomes, newer.last_ms, newer.last)


@projection(version=1, merge=merged)
def activity(turn: TurnEntry, table: Table[Activity]) -> None:
    """Turns of each namespace."""
    row = table[turn.namespace]
    row.turns += 1
    row.outcomes[turn.outcome] = row.outcomes.get(turn.outcome, 0) + 1
    row.last_ms, row.last = turn.time_ms, turn.name


class LastChange(msgspec.Struct):
    """The last change of an object: when, by which turn, and the names of the values in it."""

    object: str = ""
    time_ms: int = 0
    kind: str = ""
    method: str = ""
    outcome: str = ""
    by: str = ""
    place: str = ""
    changed: list[str] = []


@projection(version=1)
def changes(turn: TurnEntry, table: Table[LastChange]) -> None:
    """Objects by their last change; the row of an object moves with each."""
    changed = turn.changed
    if not (changed or turn.cleared):
        return
    known = table.get(f"object/{turn.key}")
    if known is not None:
        del table[_by_time(known)]
    row = LastChange(
        turn.key,
        turn.time_ms,
        turn.kind,
        turn.method,
        turn.outcome,
        turn.principal,
        f"{turn.partition}:{turn.offset}",
        changed,
    )
    table[f"object/{turn.key}"] = row
    table[_by_time(row)] = row


@activity.deleted
def forget_activity(namespace: str, table: Table[Activity]) -> None:
    """A namespace that was deleted has no activity."""
    del table[namespace]


@changes.deleted
def forget_changes(namespace: str, table: Table[LastChange]) -> None:
    """The objects of a namespace that was deleted are gone."""
    for key in table.keys(f"object/{namespace}/"):
        known = table.get(key)
        if known is not None:
            del table[_by_time(known)]
    table.clear(f"object/{namespace}/")


def _by_time(row: LastChange) -> str:
    return f"time/{row.time_ms:015d}/{row.object}"


SHIPPED: Mapping[str, Projection[Any]] = {each.name: each for each in (activity, changes)}


def used_by(own: Iterable[Projection[Any]], use: Iterable[str]) -> dict[str, Projection[Any]]:
    """Projections by name: those that an app declares, and those that it uses of perdure's.

    Raises `ConfigError` if two have one name, or perdure has no such projection.
    """
    used: dict[str, Projection[Any]] = {}
    for name in use:
        if name not in SHIPPED:
            raise ConfigError(f'perdure brings no projection "{name}"; it has: {", ".join(sorted(SHIPPED))}')
        used[name] = SHIPPED[name]
    for each in own:
        if used.setdefault(each.name, each) is not each:
            raise ConfigError(f"two projections are named {each.name}; give each its own name")
    return used
