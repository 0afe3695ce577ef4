"""Placement of one node: it owns, follows and hands over partitions, as the assignment of all nodes says.

A node that is alone owns everything at once; one that is not takes its share from the others. Each change
of the members is compared with what this node does, partition by partition.

Laws [test_placement.py, tests/simulation]
- A partition is claimed only if no living member serves it, and handed over only to a member that follows it
  closely.
- A node that was fenced by another member waits before it claims there again. One that is considered gone
  drops every partition.
- One that was fenced by a node that is not a member (of a version without placement, say) does not claim
  again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from perdure.objects.turn import Outcome
from perdure.schemas.errors import Deadlock, Fenced, Unavailable
from perdure.schemas.replies import FAILED, error_reply
from perdure.streams.owner.handover import hand_over
from perdure.streams.owner.owner import Owner
from perdure.streams.owner.recovery import live
from perdure.streams.owner.whereabouts import Seat
from perdure.streams.placement.beats import Beat, Served
from perdure.streams.placement.follower import Follower
from perdure.streams.placement.membership import Description, Membership
from perdure.streams.placement.plan import Assignment, plan
from perdure.streams.placement.rings import Rings
from perdure.streams.turns.pending_calls import LongWait
from perdure.streams.turns.ports import OwnerState

NEAR = 20_000  # journal records that a successor may lack: a fraction of a second
COOL_TICKS = 2
WAITS = 100  # calls that wait for long, in a heartbeat
REJOIN_TICKS = 3
LEAVE_S = 10.0  # for the successors of a node that leaves to become warm

_HERE = (OwnerState.STOPPED, OwnerState.FENCED)


class Placement:
    """Decides for this node which of the app's partitions it owns and follows.

    Args:
        owners: this node's owner of each partition, in order.
        home: names the node's data directory.
        standbys: how many nodes beside its owner keep each partition warm.
        waiting: returns how many commands of this node's gateway have no answer yet.
        failed: called with an error after which the node cannot go on.
    """

    def __init__(
        self,
        owners: Sequence[Owner],
        home: str,
        standbys: int,
        waiting: Callable[[], int],
        failed: Callable[[BaseException], None],
    ) -> None:
        ports = owners[0].ports
        self._owners = owners
        self._standbys = standbys
        self._failed = failed
        transport = ports.transport
        described = self._describe, self._changed, self._expelled
        self.membership = Membership(transport.log, transport.seal, ports.identity, home, *described)
        self._pending_calls = transport.pending_calls
        self._pending_calls.on_long_wait = self.membership.beat_now
        self._rings = Rings(self._withdraw)
        self._leaving = self._closed = self._started = False
        self._owning: dict[int, asyncio.Task[None]] = {}
        self._handing: set[int] = set()
        self._followers: dict[int, Follower] = {}
        self._not_before: dict[int, int] = {}  # the tick before which a partition is not claimed
        self._tasks: set[asyncio.Task[None]] = set()
        self._assigned: tuple[Assignment, ...] = ()
        self._planned: Sequence[object] = ()  # what the assignment was made of
        self._due = False
        for owner in owners:
            owner.whereabouts.placed = owner.whereabouts.remote = True
            owner.whereabouts.waiting = waiting
            owner.whereabouts.changed = self._entered

    async def join(self) -> None:
        """Become a member. Raises as `Membership.join`."""
        for owner in self._owners:
            owner.state = OwnerState.ELSEWHERE
        await self.membership.join()

    def start(self) -> None:
        """Begin to own and to follow partitions."""
        self._started = True
        self._decide()
        self._spawn(self.membership.keep())

    @property
    def alone(self) -> bool:
        """True if no other node is a member."""
        return len(self.membership.members.beats) <= 1

    @property
    def settled(self) -> bool:
        """True if each partition has an owner, and this node serves all that it is to have."""
        if not self._assigned or not self.membership.joined:
            return False
        me = self.membership.name
        for owner, place in zip(self._owners, self._assigned, strict=True):
            if place.owner is None or place.successor == me:
                return False
            if place.owner == me and owner.state not in (OwnerState.SERVING, *_HERE):
                return False
        return True

    def begin_leaving(self) -> None:
        """Say that this node leaves, and hand over each partition as soon as a member that stays is warm."""
        self._leaving = True
        self._entered()

    async def leave(self) -> None:
        """Hand over every partition to members that stay, as far as they become warm in time."""
        self.begin_leaving()
        loop = asyncio.get_running_loop()
        until_s = loop.time() + LEAVE_S
        while self._owning and loop.time() < until_s:
            if not any(not each.leaving for each in self.membership.beats()):
                return  # the last one
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        """Stop deciding, and end all that runs here."""
        self._closed = True
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for follower in self._followers.values():
            await follower.stop()
        self._followers.clear()

    async def close(self) -> None:
        """Announce that this node has left, so that the others need not wait for its silence."""
        self._owning.clear()
        self._leaving = True
        await self.membership.close()

    # What the node says of itself

    def _describe(self) -> Description:
        serving = {}
        for owner in self._owners:
            position = owner.tables.reader
            if owner.state in _HERE:
                serving[owner.partition] = Served(
                    position.epoch, position.offset, str(owner.error) or "stopped"
                )
            elif owner.partition in self._owning:
                serves = owner.state is OwnerState.SERVING
                serving[owner.partition] = Served(position.epoch, position.offset) if serves else Served()
        warm = {partition: each.offset for partition, each in self._followers.items() if not each.failed}
        waits = self._pending_calls.long_waits(WAITS)
        return ({} if self._closed else serving), warm, self._leaving, waits

    # Decisions

    def _changed(self) -> None:
        """Decide in the next step of the loop, once for all that has changed."""
        if not self._due and not self._closed:
            self._due = True
            asyncio.get_running_loop().call_soon(self._decide)

    def _entered(self) -> None:
        """An owner has entered another state: announce it to the other nodes."""
        self._changed()
        self.membership.beat_now()

    def _decide(self) -> None:
        self._due = False
        if self._closed or not self._started or not self.membership.joined:
            return
        try:
            beats = self.membership.beats()
            self._assign(beats)
            by_name = {beat.member: beat for beat in beats}
            for owner, place in zip(self._owners, self._assigned, strict=True):
                self._act(owner, place, by_name)
                owner.whereabouts.seat = _seat(owner, place, by_name)
            members = self.membership.members
            self._rings.look(members.beats, members.heard)
        except Exception as error:  # noqa: BLE001 - a fault of perdure's own must not end silently
            self._failed(error)

    def _assign(self, beats: Sequence[Beat]) -> None:
        """Plan again, unless only the ends of journals and the offsets of followers have changed."""
        shape = [
            (
                beat.member,
                beat.leaving,
                {p: (each.epoch, each.stopped) for p, each in beat.serving.items()},
                set(beat.warm),
            )
            for beat in beats
        ]
        served = {partition for beat in beats for partition in beat.serving}
        if shape != self._planned or len(served) < len(self._owners):
            self._planned = shape
            self._assigned = plan(beats, len(self._owners), self._standbys)

    def _act(self, owner: Owner, place: Assignment, members: dict[str, Beat]) -> None:
        me, partition = self.membership.name, owner.partition
        if partition in self._owning:
            self._let_go(owner, place, members)
            return
        if owner.state is OwnerState.FENCED:
            self._see_fence(owner)
        if owner.state in _HERE:
            return
        if place.owner == me:
            if self.membership.tick >= self._not_before.get(partition, 0):
                self._owning[partition] = self._spawn(self._own(owner))
            return
        served = None if place.owner is None else members[place.owner].serving.get(partition)
        _say_whether_it_serves(owner, place, members, served)
        if me == place.successor or me in place.standbys:
            if served is None:
                return  # the successor is about to claim it: this store must not seem the warmer one
            follower = self._followers.get(partition)
            if follower is None:
                follower = self._followers[partition] = Follower(
                    owner.log, owner.tables, owner.ports.recovery.ingest
                )
                self.membership.beat_now()
            follower.up_to(served.end)
        elif partition in self._followers:
            self._followers.pop(partition).cancel()

    def _see_fence(self, owner: Owner) -> None:
        """A partition that a member has claimed is elsewhere; after the claim of another node it stops."""
        error = owner.error
        if not isinstance(error, Fenced) or error.node not in self.membership.members.nodes:
            owner.whereabouts.remote = False
            return
        self._not_before[owner.partition] = self.membership.tick + COOL_TICKS
        owner.whereabouts.remote = True
        owner.enter(OwnerState.ELSEWHERE)

    def _let_go(self, owner: Owner, place: Assignment, members: dict[str, Beat]) -> None:
        partition, successor = owner.partition, place.successor
        if owner.state is not OwnerState.SERVING or partition in self._handing:
            return
        if place.owner != self.membership.name and owner.journal.idle:
            owner.journal.add_barrier(
                _nothing
            )  # a newer claim, by what a member says: an append shows whose it is
            return
        if successor is None:
            return
        warm = members[successor].warm.get(partition)
        if warm is not None and owner.tables.reader.offset - warm <= NEAR:
            self._handing.add(partition)
            self._spawn(self._hand_over(owner))

    def _withdraw(self, wait: LongWait, text: str) -> None:
        """Take the call out of its mailbox, if that is here, and fail it: it is part of a ring."""
        queued = self._pending_calls.waiting_here(wait)
        if queued is not None:
            peer, turn = queued
            peer.withdraw(turn, Outcome(error_reply(FAILED, Deadlock.code, text), False, True, False))

    # What runs

    def _spawn(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    async def _own(self, owner: Owner) -> None:
        follower = self._followers.pop(owner.partition, None)
        if follower is not None:
            await follower.stop()
        await live(owner)
        del self._owning[owner.partition]
        self._entered()

    async def _hand_over(self, owner: Owner) -> None:
        try:
            if await hand_over(owner):
                self._owning.pop(owner.partition).cancel()
                self._entered()
        finally:
            self._handing.discard(owner.partition)

    def _expelled(self) -> None:
        """The others consider this node gone: they have its partitions, or will have them in a moment."""
        owning, self._owning = self._owning, {}
        for partition, task in owning.items():
            task.cancel()
            owner = self._owners[partition]
            owner.whereabouts.remote = True
            owner.end_epoch()
            owner.enter(OwnerState.ELSEWHERE)
            self._not_before[partition] = self.membership.tick + REJOIN_TICKS


def _nothing() -> None:
    """Do nothing: the owner is still the owner."""


def _say_whether_it_serves(
    owner: Owner, place: Assignment, members: dict[str, Beat], served: Served | None
) -> None:
    """Make doors refuse commands for a partition that has stopped on its node, and accept all others."""
    stopped = served.stopped if served is not None else ""
    owner.whereabouts.remote = not stopped
    owner.error = None
    if stopped and place.owner is not None:
        owner.error = Unavailable(
            f"partition {owner.partition} does not serve on {members[place.owner].who}: {stopped}"
        )


def _seat(owner: Owner, place: Assignment, members: dict[str, Beat]) -> Seat | None:
    """The partition as all nodes see it; None if there is no node for it."""
    if place.owner is None:
        return None
    beat = members[place.owner]
    served = beat.serving.get(owner.partition)
    end = owner.tables.reader.offset if served is None else served.end
    if served is None or served.epoch < 0:
        state = "beginning"
    elif served.stopped:
        state = "stopped"
    else:
        state = "serving" if place.successor is None else "moving"
    successor = None if place.successor is None else members[place.successor].node
    standbys = tuple(
        (each.node, max(end - each.warm[owner.partition], 0))
        for each in members.values()
        if owner.partition in each.warm
    )
    epoch = None if served is None or served.epoch < 0 else served.epoch
    return Seat(beat.node, beat.host, beat.pid, epoch, state, successor, standbys)
