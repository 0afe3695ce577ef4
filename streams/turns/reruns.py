"""Reruns: turns that may have run before, and whether they make the same calls again.

After a crash or a take-over a turn may run a second time. Its calls of the first run have been answered, or
are in flight; `Reruns` compares them with those of the second run before the turn commits.

Laws [test_calls_again.py, test_reruns_elsewhere.py]
- A turn may have run before if its command lay on the log when this epoch began, if its key was seen in a
  turn that called and was not done, if it is an alarm's and the previous run was not done, or if this owner
  repeats it. All other turns are not compared.
- If such a turn ends without having repeated a call that it made before, that is `NonDeterministic`: both
  calls are named, and the turn commits nothing, whatever its handler did, also if it ends with an error of
  its own.
- A turn that is not done is not compared: it runs again.
- Each partition of this process is consulted once it has taken what lay on its log: which calls of this root
  were answered there, or are in flight. A stopped partition is left out: its failure is its own. Partitions
  of other nodes are queried over the log (known_calls.py), before the turn's first call to one of them, or at
  its end.
- A command with a key that called others, or may have, and ends as not done leaves an entry that says so. The
  next one under its key then continues it.
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

if TYPE_CHECKING:  # it imports this file
    from perdure.streams.state.tables import Tables
    from perdure.streams.turns.ports import Transport

_logger = structlog.get_logger(__name__)
LOOK_S = (0.002, 0.2)  # first and longest pause while a partition takes what lies on its log; doubling


class Reruns:
    """Compares the turns of one partition that may have run before with their earlier calls."""

    def __init__(
        self, transport: Transport, tables: Tables, spawn: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._log = transport.log
        self._pending_calls = transport.pending_calls
        self._tables = tables
        self._partition = tables.partition
        self._elsewhere = RemoteCalls(transport, tables.partition, spawn)
        # by a turn's offset and number of tries: what partitions of other nodes know of its calls
        self._queries: dict[tuple[int, int], dict[int, asyncio.Future[Earlier | None]]] = {}
        self.backlog_end = 0  # commands below that offset lay on the log when this epoch began
        self._ends: dict[int, int] | None = None  # of the partitions' commands, once this epoch had begun
        self._places: set[int] | None = None  # of commands below `backlog_end` that calls hang on

    def begin(self, backlog_end: int) -> None:
        """Start from scratch: an epoch begins, and commands below that offset may have run."""
        self.backlog_end, self._ends, self._places = backlog_end, None, None
        self._queries.clear()
        self._elsewhere.begin()

    def prefetch(self, turn: Turn) -> None:
        """Query other nodes early for the calls of a command with a key that may have run before."""
        if self._elsewhere.partitions():
            self._query_elsewhere(turn)

    def _query_elsewhere(self, turn: Turn) -> dict[int, asyncio.Future[Earlier | None]]:
        place = turn.offset, turn.tries
        query = self._queries.get(place)
        if query is None:
            root = root_of(turn.command, self._partition, turn.offset)
            query = self._queries[place] = self._elsewhere.query(turn, root)
        return query

    async def made_elsewhere(self, turn: Turn, partition: int, key: CallKey) -> bool:
        """True if a partition of another node knew that call before this run of the turn made it."""
        answer = self._query_elsewhere(turn).get(partition)
        earlier = None if answer is None else await asyncio.shield(answer)
        return earlier is not None and any(each == key for each, _ in earlier.calls)

    def may_have_run(self, turn: Turn) -> bool:
        """True if what the turn calls may have been called already."""
        return turn.offset < self.backlog_end or turn.again or turn.tries > 0

    def must_compare(self, turn: Turn, error: BaseException | None) -> bool:
        """True if an ended turn that may have run before has to be compared with its earlier calls."""
        if turn.cut is not None or _not_done(turn, error):
            self._queries.pop((turn.offset, turn.tries), None)
            return False
        kept = turn.again or turn.tries > 0 or comes_again(turn.command)
        return kept or self._places is None or turn.offset in self._places

    async def compare(
        self,
        turn: Turn,
        result: Any,
        error: BaseException | None,
        ended: Callable[[Turn, Any, BaseException | None, bool], None],
        failed: Callable[[Turn, Exception], None],
    ) -> None:
        """Compare an ended turn with its earlier calls, then end it. Its object
        waits, and its deadline counts.

        turn: the turn, which may have run before.
        result: what its handler returned.
        error: what its handler raised; None: nothing.
        ended: called with the outcome and True once the turn is compared.
        failed: called in place of `ended` for a fault of perdure's own.
        """
        try:
            difference = await self.difference(turn, error)
        except Exception as fault:  # noqa: BLE001 - any fault of perdure's own
            failed(turn, fault)
        else:
            ended(turn, result, difference or error, True)

    async def difference(self, turn: Turn, error: BaseException | None) -> PerdureError | None:
        """Return the error that the turn fails with; None: it has repeated all its earlier calls."""
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
        requests = {} if turn.calling is None else turn.calling.requests
        before: dict[CallKey, Made] = {}
        by_order: list[Made] = []
        here = (
            peer.known.earlier(root) for peer in self._pending_calls.peers.values() if not peer.elsewhere()
        )
        for earlier in (*here, *elsewhere):
            before.update(earlier.calls)
            by_order += earlier.by_order
        missing = [made for key, made in before.items() if key not in requests] + _missing(by_order, requests)
        if not missing:
            return None
        fresh = [] if turn.calling is None else turn.calling.fresh
        now = fresh[0] if fresh else "nothing in its place"
        text = f"{command.key} ran again and called something else: {now} now, {missing[0]} before"
        if error is not None:
            text += f"; it ended with {type(error).__name__}: {error}"
        return NonDeterministic(text)

    def kept(self, turn: Turn, outcome: Outcome) -> Outcome:
        """Give an outcome an entry if the next command under the turn's key has to
        know that it called others.
        """
        command = turn.command
        assert command.client_key is not None
        key = call_key(command.principal, command.client_key)
        if key is not None and not key.content:
            return outcome  # its calls belong to its offset, and no other command repeats them
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
        """Return what partitions of other nodes know of the turn's calls, if they answer within the bound."""
        kept = turn.again or turn.tries > 0 or comes_again(turn.command)
        if not kept and self._places is not None and turn.offset not in self._places:
            return []
        query = self._query_elsewhere(turn)
        known = {partition: await asyncio.shield(answer) for partition, answer in query.items()}
        self._queries.pop((turn.offset, turn.tries), None)
        if missing := [partition for partition, earlier in known.items() if earlier is None]:
            not_compared(turn, missing)
        return [earlier for earlier in known.values() if earlier is not None]

    async def _all_taken(self, turn: Turn, *, fresh: bool) -> None:
        """Return when each partition of this process has taken all that lay on its log.

        `fresh`: up to the end of the log as it is now; otherwise as it was when the
        epoch began, which holds all calls made before.
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
            if elsewhere is not None:  # otherwise each turn queries for itself
                self._places = places | elsewhere


def not_compared(turn: Turn, partitions: list[int]) -> None:
    """Log that a turn was compared without what these partitions know."""
    _logger.warning(
        "a turn that ran again is not compared with all calls of then",
        **turn_fields(turn),
        without=partitions,
    )


def _missing(before: list[Made], requests: dict[CallKey, Made]) -> list[Made]:
    """Return the calls by order that were not repeated: only their content identifies them."""
    left = [(made.key, made.payload_hash) for made in requests.values()]
    missing = []
    for made in before:
        what = made.key, made.payload_hash
        if what in left:
            left.remove(what)
        else:
            missing.append(made)
    return missing


def _not_done(turn: Turn, error: BaseException | None) -> bool:
    """True if it has to run again whatever it had called."""
    if turn.overlay is not None and turn.overlay.failure is not None:
        return True
    if isinstance(error, OutcomeUnknown):
        return error.of_call and comes_again(turn.command)
    return isinstance(error, Expired) or (isinstance(error, Unavailable) and error.of_call)
