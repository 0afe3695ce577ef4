"""The pending calls of a node by themselves: replies by id, and rings of turns that wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.objects.durable import DurableObject
from perdure.objects.overlay import TurnLimits
from perdure.objects.registry import ObjectType
from perdure.objects.turn import Outcome
from perdure.schemas.calls import NOWHERE, Root
from perdure.schemas.commands import Command
from perdure.schemas.errors import OutcomeUnknown
from perdure.schemas.replies import OK, Reply
from perdure.streams.log.base import LogRecord
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.activation import Activation, Turn
from perdure.streams.turns.keys_in_flight import KeysInFlight, Spending, spending_of
from perdure.streams.turns.known_calls import KnownCalls
from perdure.streams.turns.mailbox import Mailbox
from perdure.streams.turns.pending_calls import Call, PendingCalls
from perdure.streams.turns.turn_calls import TurnCalls

DONE = Reply(OK, 200, (), b"1")


class Thing(DurableObject):
    pass


class Node:
    """Objects of one partition, in memory: which turn runs in each, and which calls
    wait behind it. It is a `Peer`.
    """

    def __init__(self) -> None:
        self.tables = Tables(MemoryStore(), 0)
        self.keys = KeysInFlight(self.tables, lambda turn, outcome: None, lambda: 0.0)
        self.known = KnownCalls(self.tables, self.keys)
        self.activations: dict[str, Activation] = {}
        self.pending = PendingCalls()
        self.pending.peers[0] = self
        self._offset = 0

    def running(self, name: str) -> Turn:
        """The turn that runs in the object of that name; made if there is none."""
        activation = self.activations.get(name)
        if activation is None:
            activation = self.activations[name] = Activation(
                name, ObjectType("Thing", Thing), self.tables, TurnLimits()
            )
            turn = activation.running = self._turn(Command(name, "call", "work"), activation)
            turn.calling = TurnCalls(Root(NOWHERE, 0, ""))
        assert activation.running is not None
        return activation.running

    def call(self, caller: str, callee: str) -> Call:
        """A call that waits in the callee's mailbox."""
        turn = self.running(caller)
        self.running(callee)
        command = Command(callee, "call", "work", id=f"c{self._offset}", client_key=f"k{self._offset}")
        call = Call(turn, command, 0)
        assert turn.calling is not None
        turn.calling.waiting[call] = None
        activation = self.activations[callee]
        waiting = self._turn(command, activation)
        if activation.mailbox is None:
            activation.mailbox = Mailbox()
        activation.mailbox.append(waiting)
        self.keys.enter(command, waiting)
        return call

    def run(self, call: Call) -> Turn:
        """The call's turn begins: it leaves the mailbox."""
        turn = self.keys.turn_of((call.command.key, call.command.principal, call.command.client_key or ""))
        assert isinstance(turn, Turn)
        assert turn.activation is not None
        turn.activation.running = turn
        turn.calling = TurnCalls(Root(NOWHERE, 0, ""))
        return turn

    def _turn(self, command: Command, activation: Activation) -> Turn:
        self._offset += 1
        return Turn(LogRecord(self._offset, 0, None, None), command, activation, self._offset)

    # As a `Peer`

    def activation(self, key: str) -> Activation | None:
        return self.activations.get(key)

    @property
    def check_room(self) -> Callable[[str], None]:
        return lambda key: None

    def withdraw(self, turn: Turn, outcome: Outcome) -> None:
        raise AssertionError("no turn is withdrawn here")

    def turn_of(self, spending: Spending) -> Turn | int | None:
        return self.keys.turn_of(spending)

    def has_taken(self, end: int) -> bool:
        return True

    def elsewhere(self) -> bool:
        return False


def names(ring: list[Turn]) -> list[str]:
    return [turn.command.key for turn in ring]


@pytest.mark.parametrize("order", [("a",), ("a", "b"), ("a", "b", "c")])
def test_turns_that_wait_in_each_others_mailboxes_are_a_ring(order: tuple[str, ...]) -> None:
    """Each call of it finds the whole ring, its own turn first."""
    node = Node()
    calls = [node.call(each, order[(n + 1) % len(order)]) for n, each in enumerate(order)]
    for n, call in enumerate(calls):
        assert names(node.pending.ring(call)) == [*order[n:], *order[:n]]


def test_a_call_that_runs_closes_no_ring() -> None:
    """The callee is at work for the caller: what counts is what that turn waits for."""
    node = Node()
    first = node.call("a", "b")
    node.run(first)
    assert node.pending.queued(first) is None
    assert node.pending.blocker(first) is node.activations["b"].running
    assert node.pending.ring(first) == []
    back = node.call("b", "a")  # now it does wait for its caller
    assert names(node.pending.ring(back)) == ["b", "a"]
    assert names(node.pending.ring(first)) == ["a", "b"]


def test_a_turn_that_has_ended_is_not_waited_for() -> None:
    """Its reply comes when it is durable, whatever its object runs now."""
    node = Node()
    call, _ = node.call("a", "b"), node.call("b", "a")
    assert node.pending.queued(call) is not None
    turn = node.keys.turn_of((call.command.key, call.command.principal, call.command.client_key or ""))
    assert isinstance(turn, Turn)
    turn.reply = DONE
    assert node.pending.queued(call) is None
    assert node.pending.ring(call) == []


def test_a_call_that_found_no_room_waits_for_the_turn_that_runs() -> None:
    """It is in no mailbox, and yet part of the ring."""
    node = Node()
    node.call("b", "a")
    call = Call(node.running("a"), Command("b", "call", "work", client_key="unsent"), 0)
    assert node.pending.ring(call) == []
    call.no_room = True
    assert names(node.pending.ring(call)) == ["a", "b"]


def test_a_command_in_a_mailbox_by_its_offset_only_waits_too() -> None:
    """Beyond the mailbox's bound the log holds it."""
    node = Node()
    call, _ = node.call("a", "b"), node.call("b", "a")
    node.keys._turns.pop(spending_of(call.command))
    node.keys.enter(call.command, 7)
    assert node.pending.queued(call) == 7
    assert names(node.pending.ring(call)) == ["a", "b"]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=14))
def test_a_ring_is_found_exactly_where_the_callee_reaches_the_caller(edges: list[tuple[str, str]]) -> None:
    """By comparison with reachability, over random calls that all wait."""
    node = Node()
    calls = [node.call(*edge) for edge in edges]
    for call, (caller, callee) in zip(calls, edges, strict=True):
        reached, look = {callee}, [callee]
        while look:
            at = look.pop()
            new = {to for frm, to in edges if frm == at} - reached
            reached |= new
            look += new
        ring = names(node.pending.ring(call))
        assert bool(ring) == (caller in reached)
        if ring:
            assert ring[0] == caller
            assert ring[1:2] in ([], [callee])
            assert set(zip(ring, [*ring[1:], caller], strict=True)) <= set(edges)


def story(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(run())


def test_a_reply_completes_its_call_once() -> None:
    """By the call's id, and only under this process's address."""

    async def run() -> None:
        node = Node()
        call = node.call("a", "b")
        call.future = asyncio.get_running_loop().create_future()
        node.pending.expect(call)
        assert not node.pending.answer("0/calls.other", call.command.id, DONE)
        assert not call.future.done()
        assert node.pending.answer(node.pending.address, call.command.id, DONE)
        assert node.pending.answer(node.pending.address, call.command.id, Reply(OK, 500, (), b"late"))
        assert await call.future is DONE

    story(run)


def test_a_partition_that_stops_fails_its_calls_alone() -> None:
    """They may run or have run: their callers get that error."""

    async def run() -> None:
        node = Node()
        call, other = node.call("a", "b"), node.call("a", "c")
        other.partition = 1
        for each in (call, other):
            each.future = asyncio.get_running_loop().create_future()
            node.pending.expect(each)
        node.pending.stopped(0, RuntimeError("the disk is full"))
        assert call.future is not None
        assert other.future is not None
        with pytest.raises(OutcomeUnknown, match="the call of b may run or have run: the disk is full"):
            await call.future
        assert not other.future.done()

    story(run)
