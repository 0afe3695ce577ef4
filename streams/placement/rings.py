"""Rings of calls over several nodes: objects that wait for each other, each for one of another node.

A ring inside one process is found there (streams/turns/pending_calls.py). For the others heartbeats say which
calls of a node wait for long: all nodes see the same calls, and the node that has the called object withdraws
one.

Laws [test_placement.py]
- A ring is broken only if each of its calls waited at one and the same moment: each member has said so before
  the ring was seen, and says so in a later heartbeat.
- One call of a ring is withdrawn, from the mailbox where it waits: it never runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from perdure.streams.placement.beats import Beat
from perdure.streams.turns.pending_calls import LongWait

MOST = 1_000  # calls that wait for long, of all members


def rings_of(waits: Iterable[LongWait]) -> list[tuple[LongWait, ...]]:
    """The rings among calls: each goes from an object to the next one, and from the last to the first."""
    of: dict[str, list[LongWait]] = {}
    for each in waits:
        of.setdefault(each.caller, []).append(each)
    rings, over = list[tuple[LongWait, ...]](), set[str]()
    for start, first in of.items():
        path, under_way = list[LongWait](), [iter(first)]
        on_path = {start}
        while under_way:
            if (wait := next(under_way[-1], None)) is None:
                under_way.pop()
                if path:
                    over.add(path[-1].callee)
                    on_path.discard(path.pop().callee)
            elif wait.callee in on_path:
                callers = [each.caller for each in path] + [wait.caller]
                rings.append(tuple([*path, wait][callers.index(wait.callee) :]))
            elif wait.callee in of and wait.callee not in over:
                path.append(wait)
                on_path.add(wait.callee)
                under_way.append(iter(of[wait.callee]))
        over.add(start)
    return rings


class Rings:
    """The rings that this node sees in heartbeats; `withdraw(wait, text)` takes a call out of its mailbox."""

    def __init__(self, withdraw: Callable[[LongWait, str], object]) -> None:
        self._withdraw = withdraw
        self._seen: dict[tuple[LongWait, ...], Mapping[str, int]] = {}

    def look(self, beats: Iterable[Beat], heard: Mapping[str, int]) -> None:
        """Look at the newest heartbeats. `heard`: how many there were of each member."""
        waits = [(beat.member, wait) for beat in beats for wait in beat.waits][:MOST]
        if not waits:
            self._seen.clear()
            return
        member_of = {wait: member for member, wait in waits}
        seen, self._seen = self._seen, {}
        for ring in rings_of(member_of):
            members = {member_of[wait] for wait in ring}
            if len(members) == 1:
                continue  # found there
            before = seen.get(ring)
            if before is None:
                self._seen[ring] = {member: heard[member] for member in members}
            elif all(heard[member] > count for member, count in before.items()):
                last = max(ring, key=lambda wait: wait.key)
                names = [*(wait.caller for wait in ring), ring[0].caller]
                self._withdraw(last, f"objects of several nodes wait for each other: {' -> '.join(names)}")
            else:
                self._seen[ring] = before
