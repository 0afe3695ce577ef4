"""The whereabouts of a partition: which node serves it, and whether its commands may wait on the log.

An owner asks here when a door has a command for a partition that it does not serve itself. On a log that
nodes share, placement (streams/placement) says here what it knows.

Laws [test_placement.py]
- While the partition moves, or another node serves it, its commands are appended: they wait on the log for
  the owner that takes them. There may be `mailbox` of them in one gateway.
- A partition that has stopped where it is served takes none; the error names that node and its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from perdure.schemas.errors import ObjectPaused, Overloaded, Unavailable
from perdure.streams.turns.ports import OwnerState

if TYPE_CHECKING:
    from perdure.streams.owner.owner import Owner
    from perdure.streams.turns.activation import Activation
from perdure.streams.turns.mailbox import Mailbox

IN_TIME = 0.8  # the part of its deadline that a command may be expected to wait; above that, doors refuse it


class Seat(NamedTuple):
    """A partition as all nodes see it.

    `state`: `serving`, `beginning`, `stopped`, or `moving` to `successor`. `lag` of a standby: journal
    records that its store lacks.
    """

    node: str
    host: str
    pid: int
    epoch: int | None
    state: str
    successor: str | None = None
    standbys: tuple[tuple[str, int], ...] = ()

    @property
    def text(self) -> str:
        """The node that has the partition, as errors name it."""
        return f"node {self.node} on {self.host} (pid {self.pid})"


def seat_facts(seat: Seat | None) -> dict[str, object]:
    """Which node has a partition, as types of JSON."""
    if seat is None:
        return {"node": None, "state": "unserved"}
    return {
        "node": seat.node,
        "host": seat.host,
        "pid": seat.pid,
        "epoch": seat.epoch,
        "state": seat.state,
        "moves_to": seat.successor,
        "standbys": [{"node": node, "lag": lag} for node, lag in seat.standbys],
    }


class Whereabouts:
    """The place of one partition, as placement last gave it to its owner on this node.

    `placed`: placement decides whether this node serves it. `remote`: its commands may wait on the log though
    this node does not serve it. `waiting()`: how many commands of this node's gateway have no answer yet.
    `changed()` is called when the owner enters another state.
    """

    __slots__ = ("changed", "placed", "remote", "seat", "waiting")

    def __init__(self) -> None:
        self.placed = self.remote = False
        self.seat: Seat | None = None
        self.waiting: Callable[[], int] = int
        self.changed: Callable[[], object] = int

    def check(self, owner: Owner) -> None:
        """Check that a command may wait on the log. Raises the partition's error, or `Overloaded`."""
        if not self.remote or owner.state is OwnerState.STOPPED:
            raise self.error(owner)
        if self.waiting() >= owner.bounds.mailbox:
            raise Overloaded(
                f"{self.waiting()} commands of this node have no answer yet, and partition {owner.partition} is served by "
                "another one: ask again later"
            )

    def error(self, owner: Owner) -> BaseException:
        """The error with which doors answer for a partition that does not serve here."""
        seat = self.seat
        if owner.state in (OwnerState.STOPPED, OwnerState.FENCED) and owner.error is not None:
            return owner.error
        if owner.state is not OwnerState.ELSEWHERE or seat is None:
            return Unavailable(f"partition {owner.partition} is {owner.state}: ask again")
        if owner.error is not None:
            return owner.error
        return Unavailable(f"partition {owner.partition} is served by {seat.text}: ask that node")


def check_mailbox(owner: Owner, activation: Activation, mailbox: Mailbox, deadline_ms: int | None) -> None:
    """Check that a mailbox takes one more command. Raises `Overloaded` or `ObjectPaused`."""
    waiting, key = len(mailbox), activation.key
    if waiting >= owner.bounds.mailbox:
        if activation.paused:
            raise ObjectPaused(f"{key} is paused, and {waiting} commands wait for it")
        raise Overloaded(f"{key} has {waiting} commands waiting: ask again later")
    if deadline_ms is not None and (wait_s := mailbox.wait_s()) > IN_TIME * deadline_ms / 1000:
        raise Overloaded(
            f"{key} has {waiting} commands waiting, and needs about {wait_s:.1f} s for them: this command would "
            f"not run within its deadline of {deadline_ms} ms. Ask again later, or spread the load over more objects",
            retry_after_s=wait_s / 2,
        )
