"""The assignment of partitions to nodes, computed by every node from the same heartbeats.

Pure: heartbeats in, one `Assignment` per partition out.

Laws [test_plan.py]
- A partition that a member serves stays with it until it is handed over. A partition that none serves goes at
  once to the member whose store has most of it, and to one with few partitions if no store has any.
- Balance: the numbers of partitions of any two members that stay differ by one at
  most, once the moves are made.
- A move is planned only where balance, or a member that leaves, needs it; the same heartbeats give the same
  moves, and what a successor has followed already makes it the successor again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from perdure.streams.placement.beats import Beat


class Assignment(NamedTuple):
    """The place of a partition now and after its next move, as names of members.

    `owner` serves it, or is to claim it now. `successor`: the member that it moves to, when that one's store
    is warm. `standbys`: the members that keep a warm store.
    """

    owner: str | None = None
    successor: str | None = None
    standbys: tuple[str, ...] = ()


def plan(beats: Sequence[Beat], partitions: int, standbys: int = 0) -> tuple[Assignment, ...]:
    """The place of each partition. `beats`: the newest of each member, in any order."""
    beats = sorted(
        beats, key=lambda beat: beat.member
    )  # readers that began elsewhere met them in another order
    current = [_serving(beats, partition) for partition in range(partitions)]
    staying = {beat.member: beat for beat in beats if not beat.leaving}
    if not staying:
        return tuple(Assignment(None if beat is None else beat.member) for beat in current)
    owners = [None if beat is None else beat.member for beat in current]
    load = dict.fromkeys(staying, 0)
    for owner in owners:
        if owner in load:
            load[owner] += 1
    for partition, owner in enumerate(owners):
        if owner is None and (heir := _warmest(staying, load, partition)) is not None:
            owners[partition] = heir
            load[heir] += 1
    targets = _balanced(owners, staying, load, _pinned(current))
    kept = _standbys(targets, staying, standbys)
    return tuple(
        Assignment(owner or target, target if owner not in (None, target) else None, warm)
        for owner, target, warm in zip(owners, targets, kept, strict=True)
    )


def _serving(beats: Sequence[Beat], partition: int) -> Beat | None:
    """The member that serves a partition: of several that say so the one with the newest claim."""
    best, epoch = None, -2
    for beat in beats:
        served = beat.serving.get(partition)
        if served is not None and served.epoch > epoch:
            best, epoch = beat, served.epoch
    return best


def _pinned(current: Sequence[Beat | None]) -> set[int]:
    """The partitions that have stopped with an error: another node would meet the same one."""
    return {
        partition
        for partition, beat in enumerate(current)
        if beat is not None and not beat.leaving and beat.serving[partition].stopped
    }


def _warmest(staying: dict[str, Beat], load: dict[str, int], partition: int) -> str | None:
    best, rank = None, (-1, 0)
    for name, beat in staying.items():
        offset = beat.warm.get(partition, -1)
        if offset >= 0 and (offset, -load[name]) > rank:
            best, rank = name, (offset, -load[name])
    return best


def _balanced(
    owners: Sequence[str | None], staying: dict[str, Beat], load: dict[str, int], pinned: set[int]
) -> list[str]:
    """The member that each partition is to be with, by the fewest moves."""
    base, extra = divmod(len(owners), len(staying))
    ranked = sorted(staying, key=lambda name: -load[name])  # stable: of equal ones the first by name
    free = {name: base + (at < extra) for at, name in enumerate(ranked)}
    targets: list[str | None] = [None] * len(owners)
    for partition in sorted(pinned):
        name = owners[partition]
        assert name is not None
        targets[partition] = name
        free[name] -= 1
    # those stay first that no member with room follows already: what it follows was to move before, too
    wanting = [name for name in staying if load[name] < free[name]]
    follows = [any(p in staying[name].warm for name in wanting) for p in range(len(owners))]
    for partition in sorted(range(len(owners)), key=lambda p: follows[p]):
        name = owners[partition]
        if targets[partition] is None and name in free and free[name] > 0:
            targets[partition] = name
            free[name] -= 1
    waiting = [partition for partition, target in enumerate(targets) if target is None]
    for warm_only in (True, False):
        for partition in waiting:
            if targets[partition] is not None:
                continue
            roomy = [
                name
                for name in staying
                if free[name] > 0 and (not warm_only or partition in staying[name].warm)
            ]
            if roomy:
                chosen = max(roomy, key=lambda name: (staying[name].warm.get(partition, -1), free[name]))
                targets[partition] = chosen
                free[chosen] -= 1
    return [target if target is not None else min(free, key=lambda name: -free[name]) for target in targets]


def _standbys(targets: Sequence[str], staying: dict[str, Beat], count: int) -> list[tuple[str, ...]]:
    """The members that follow each partition beside its owner: those that do so already, in equal shares."""
    count = min(count, len(staying) - 1)
    if count <= 0:
        return [()] * len(targets)
    share = -(-len(targets) * count // len(staying))
    load = dict.fromkeys(staying, 0)
    order = {name: at for at, name in enumerate(staying)}
    kept = []
    for partition, target in enumerate(targets):
        others = sorted(
            (name for name in staying if name != target),
            key=lambda name: (
                load[name] >= share,
                partition not in staying[name].warm,
                load[name],
                (order[name] - order[target]) % len(staying),
            ),
        )[:count]
        for name in others:
            load[name] += 1
        kept.append(tuple(others))
    return kept
