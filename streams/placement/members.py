"""The members of an app: the nodes that are alive, by the heartbeats on the log.

Pure: `apply` takes the heartbeats in their order on the log. Two nodes that have read the same ones hold the
same members.

Laws [test_members.py]
- A member is gone when another one has counted `SILENT_TICKS` since its last heartbeat, when it says that it
  has left, or when a later one has its data directory. What it sends afterwards is ignored.
- Readers that began at different places of the log agree in the end: a member that one of them has wrongly
  considered gone, and that sends heartbeats for another `SILENT_TICKS`, is a member again. (A member that
  reads that it is gone sends none.)
- While the log accepts no heartbeats, no member counts, and none is considered gone.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.streams.placement.beats import Beat

BEAT_S = 1.0
SILENT_TICKS = 5
REMEMBERED = 1_000  # members that are gone


class _Member:
    __slots__ = ("beat", "heard", "ticks")

    def __init__(self, beat: Beat) -> None:
        self.beat = beat
        self.heard = 0
        self.ticks: dict[str, int] = {}  # of each other member, when this one was heard last


class Members:
    """The members of an app, as the heartbeats read so far show them."""

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}
        self._gone: dict[str, int] = {}  # the tick from which on it would be a member again; -1: never
        self.nodes: dict[str, int] = {}  # the names in claims of all that have been members

    @property
    def beats(self) -> Sequence[Beat]:
        """The newest heartbeat of each member."""
        return [member.beat for member in self._members.values()]

    @property
    def heard(self) -> dict[str, int]:
        """How many heartbeats of each member were read."""
        return {name: member.heard for name, member in self._members.items()}

    def __contains__(self, member: str) -> bool:
        return member in self._members

    def is_gone(self, member: str) -> bool:
        """True if it was a member and is not any more."""
        return member in self._gone

    def apply(self, beat: Beat) -> bool:
        """Take the next heartbeat; True if the members, or their partitions, have changed."""
        name = beat.member
        _remember(self.nodes, beat.node, 0)
        if beat.left:
            self._remove(name, -1)
            return True
        if not 0 <= self._gone.get(name, 0) <= beat.tick:
            return False
        before = self._members.get(name)
        changed = before is None or before.beat.leaving != beat.leaving
        if before is None:
            before = self._members[name] = _Member(beat)
            self._gone.pop(name, None)
            for earlier in self.beats:
                if earlier.home == beat.home and earlier.member != name:
                    self._remove(earlier.member, -1)
        changed = changed or _says(before.beat) != _says(beat) or bool(beat.waits)
        before.beat, before.heard = beat, before.heard + 1
        before.ticks = {other: member.beat.tick for other, member in self._members.items() if other != name}
        for other, member in list(self._members.items()):
            if other != name and beat.tick - member.ticks.setdefault(name, beat.tick) >= SILENT_TICKS:
                self._remove(other, member.beat.tick + SILENT_TICKS)
                changed = True
        return changed

    def _remove(self, name: str, until: int) -> None:
        self._members.pop(name, None)
        _remember(self._gone, name, until)
        for member in self._members.values():
            member.ticks.pop(name, None)


def _says(beat: Beat) -> tuple[object, ...]:
    return beat.serving, beat.warm, beat.waits


def _remember(names: dict[str, int], name: str, value: int) -> None:
    names[name] = value
    if len(names) > REMEMBERED:
        del names[next(iter(names))]
