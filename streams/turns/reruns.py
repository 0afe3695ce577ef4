"""Turns that may have run before: what they called then, and whether they have asked for the same.

Laws
- A turn may have run before if its command lay on the log when this reign began, if its key was seen in a turn that
  called and was not done, if it is an alarm's and the run before was not done, or if it is tried again by itself. All others are compared with nothing.
- What such a turn had made before and has not asked for again when it ends is `NonDeterministic`: both calls are named,
  and the turn commits nothing, whatever its handler made of it, also if it ends by an error of its own.
- A turn that is not done after all is not compared: it runs again.
- Each partition of this process is asked, once it has taken what lay on its log: which calls of this root were answered
  there, or are in flight. One that has stopped is not: its failure is its own. Those of other nodes are asked over the log
  (known_calls.py), before the turn's first call to one of them, or at its end.
- A command with a key that called others, or may have, and ends as not done leaves an entry that says so, so that the
  next one under its key is known to go on with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog

from perdure.objects.overlay import Overlay
from perdure.objects.turn import Outcome, comes_again
from perdure.schemas.calls import CallKey, call_key, root_of
from perdure.schemas.errors import (
    Expired,
    NonDeterministic,
    OperatorError,
    OutcomeUnknown,
    PerdureError,
    Unavailable,
)
from perdure.schemas.replies import UNAVAILABLE, error_reply
from perdure.streams.log.base import Topic
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.known_calls import Earlier, Made, RemoteCalls
from perdure.streams.turns.log_fields import turn_fields

if TYPE_CHECKING:  # it stands on this file
    from perdure.streams.state.tables import Tables
    from perdure.streams.turns.ports import Transport

_logger = structlog.get_logger(__name__)
LOOK_S = (0.002, 0.2)  # first and longest pause while a partition takes what lies on its log; doubling


class Reruns:
    """Of one partition's turns."""

    def __init__(
        self, transport: Transport, tables: Tables, spawn: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._log = transport.log
        self._pending_calls = transport.pending_calls
        self._tables = tables
        self._partition = tables.partition
        self._elsewhere = RemoteCalls(transport, tables.partition, spawn)
        # of turns, by offset and how often they were tried: what partitions of other nodes know, as they are asked
        self._asked: dict[tuple[int, int], dict[int, asyncio.Future[Earlier | None]]] = {}
        self.backlog_end = 0  # commands below that offset lay on the log when this reign began
        self._ends: dict[int, int] | None = None  # of the partitions' commands, once this reign had begun
        self._places: set[int] | None = None  # of commands below `backlog_end` that calls hang on

    def begin(self, backlog_end: int) -> None:
        """A reign begins: what lies on the log below that offset may have run."""
        self.backlog_end, self._ends, self._places = backlog_end, None, None
        self._asked.clear()
        self._elsewhere.begin()

    def prefetch(self, turn: Turn) -> None:
        """A command with a key that may have run before has come: ask now what other nodes know of its calls."""
        if self._elsewhere.partitions():
            self._ask_elsewhere(turn)

    def _ask_elsewhere(self, turn: Turn) -> dict[int, asyncio.Future[Earlier | None]]:
        place = turn.offset, turn.tries
        asked = self._asked.get(place)
        if asked is None:
            root = root_of(turn.command, self._partition, turn.offset)
            asked = self._asked[place] = self._elsewhere.ask(turn, root)
        return asked

    async def made_elsewhere(self, turn: Turn, partition: int, key: CallKey) -> bool:
        """True if a partition of another node knew that call before this run of the turn made it."""
        answer = self._ask_elsewhere(turn).get(partition)
        earlier = None if answer is None else await asyncio.shield(answer)
        return earlier is not None and any(each == key for each, _ in earlier.calls)

    def may_have_run(self, turn: Turn) -> bool:
        """True if what the turn calls may have been called already."""
        return turn.offset < self.backlog_end or turn.again or turn.tries > 0

    def must_compare(self, turn: Turn, error: BaseException | None) -> bool:
        """True if a turn that may have run before, and has ended, is to be compared with what it called then."""
        if turn.cut is not None or _not_done(turn, error):
            self._asked.pop((turn.offset, turn.tries), None)
            return False
        kept = turn.again or turn.tries > 0 or comes_again(turn.command)
        return kept or self._places is None or turn.offset in self._places

    async def difference(self, turn: Turn, error: BaseException | None) -> PerdureError | None:
        """What the turn fails with instead of how it ended; None: it has asked for all that it asked for before."""
        command = turn.command
        root = root_of(command, self._partition, turn.offset)
        try:
            async with asyncio.timeout_at(turn.until_s):
                await self._all_taken(turn, fresh=turn.again or turn.tries > 0)
                elsewhere = await self._known_elsewhere(turn)
        except TimeoutError:
            return Expired(
                f"{command.key} may have run before, and the calls of then could not be looked up within its deadline"
            )
        except (OperatorError, Unavailable) as trouble:
            failed = Unavailable(f"the earlier calls of {command.key} could not be looked up: {trouble}")
            failed.of_call = True
            return failed
        asked = {} if turn.calling is None else turn.calling.asked
        before: dict[CallKey, Made] = {}
        by_order: list[Made] = []
        here = (
            peer.known.earlier(root) for peer in self._pending_calls.peers.values() if not peer.elsewhere()
        )
        for earlier in (*here, *elsewhere):
            before.update(earlier.calls)
            by_order += earlier.by_order
        missing = [made for key, made in before.items() if key not in asked] + _missing(by_order, asked)
        if not missing:
            return None
        fresh = [] if turn.calling is None else turn.calling.fresh
        now = fresh[0] if fresh else "nothing in its place"
        told = f"{command.key} ran again and called something else: {now} now, {missing[0]} before"
        if error is not None:
            told += f"; it ended with {type(error).__name__}: {error}"
        return NonDeterministic(told)

    def kept(self, turn: Turn, outcome: Outcome) -> Outcome:
        """The outcome of a turn without an entry: with one, if the next command under its key is to know that it called."""
        command = turn.command
        assert command.client_key is not None
        key = call_key(command.principal, command.client_key)
        if key is not None and not key.content:
            return outcome  # what it called hangs on its place, and it is not asked for again
        called = turn.calling is not None and turn.calling.called
        if not called and (outcome.reply.outcome != UNAVAILABLE or not self.may_have_run(turn)):
            return outcome
        reply = outcome.reply
        if reply.outcome != UNAVAILABLE:
            reply = error_reply(
                UNAVAILABLE, "storage-failed", f"the state of {command.key} could not be read; ask again"
            )
        if turn.overlay is None:
            turn.time_ms, turn.overlay = turn.record.time_ms, Overlay()
        return Outcome(reply, False, True, outcome.drop_instance)

    # How

    async def _known_elsewhere(self, turn: Turn) -> list[Earlier]:
        """What partitions of other nodes know of the turn's calls, of those that answer within the bound."""
        kept = turn.again or turn.tries > 0 or comes_again(turn.command)
        if not kept and self._places is not None and turn.offset not in self._places:
            return []
        asked = self._ask_elsewhere(turn)
        found = {partition: await asyncio.shield(answer) for partition, answer in asked.items()}
        self._asked.pop((turn.offset, turn.tries), None)
        if missing := [partition for partition, earlier in found.items() if earlier is None]:
            not_compared(turn, missing)
        return [earlier for earlier in found.values() if earlier is not None]

    async def _all_taken(self, turn: Turn, *, fresh: bool) -> None:
        """Return when each partition of this process has taken all that lay on its log.

        When this is called, if `fresh`, else when the reign began: what was called before that began lay there then.
        """
        ends = None if fresh else self._ends
        if ends is None:
            ends = {}
            for partition in list(self._pending_calls.peers):
                ends[partition] = (await self._log.bounds(Topic.COMMANDS, partition)).end
            if not fresh:
                self._ends = ends
        for partition, end in ends.items():
            pause_s = LOOK_S[0]
            while not self._pending_calls.peers[partition].has_taken(end):
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LOOK_S[1])
        if self._places is None and not fresh:
            places: set[int] = set()
            for peer in self._pending_calls.peers.values():
                places |= peer.known.places(self._partition)
            elsewhere = await self._elsewhere.places(turn, self._tables.done.mark, self.backlog_end)
            if elsewhere is not None:  # else each turn asks for itself
                self._places = places | elsewhere


def not_compared(turn: Turn, partitions: list[int]) -> None:
    """Say that a turn was compared without what these partitions know."""
    _logger.warning(
        "a turn that ran again is not compared with all calls of then",
        **turn_fields(turn),
        without=partitions,
    )


def _missing(before: list[Made], asked: dict[CallKey, Made]) -> list[Made]:
    """Of calls by order those that were not asked for again: they are known by what they asked only."""
    left = [(made.key, made.payload_hash) for made in asked.values()]
    missing = []
    for made in before:
        what = made.key, made.payload_hash
        if what in left:
            left.remove(what)
        else:
            missing.append(made)
    return missing


def _not_done(turn: Turn, error: BaseException | None) -> bool:
    """True if it is to run again whatever it had asked for."""
    if turn.overlay is not None and turn.overlay.failure is not None:
        return True
    if isinstance(error, OutcomeUnknown):
        return error.of_call and comes_again(turn.command)
    return isinstance(error, Expired) or (isinstance(error, Unavailable) and error.of_call)
