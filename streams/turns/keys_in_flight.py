"""The keys in flight of one partition: from the arrival of a command until its outcome is durable.

A copy of a call between objects waits for the first one and gets its answer. So does a client's command
that was read from the log, in its place in the mailbox; one of a door is refused, since its client can ask
again.

Laws
- A copy of a call whose key is in flight joins the first one and gets the same answer, also if that was not
  done. It is journaled directly behind the first: after a crash, no later command of the object can be done
  and the copy not. [test_calls_again.py]
- A client's command under a key in flight waits behind the first one, as any later command of the object. If
  the first one spent the key, it gets the stored answer; if that was not done, it runs. [test_head_cache.py]
- A call that was written by order, before calls were known by content, is also joined under its new name.
- No lookup walks a mailbox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from perdure.objects.turn import Outcome, not_done
from perdure.schemas.calls import CALL_KEY, CallKey, call_key
from perdure.schemas.commands import LOCAL, Command, payload_hash
from perdure.schemas.errors import KeyConflict
from perdure.schemas.replies import UNAVAILABLE
from perdure.streams.state.tables import Tables
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.admission import copy_outcome, outcome_of_spent

Spending = tuple[str, str, str]  # object key, principal, client key


def spending_of(command: Command) -> Spending:
    """Return the key that the command spends; it must have one."""
    assert command.client_key is not None
    return command.key, command.principal, command.client_key


def is_of_a_door(reply_to: str) -> bool:
    """True if the reply address is that of a gateway."""
    return reply_to == LOCAL or "/gateway." in reply_to


def _offset_of(waiting: Turn | int) -> int:
    return waiting if isinstance(waiting, int) else waiting.offset


class KeysInFlight:
    """The keys in flight of one partition, and the copies that wait for each."""

    def __init__(
        self, tables: Tables, conclude: Callable[[Turn, Outcome], None], clock_s: Callable[[], float]
    ) -> None:
        self._tables = tables
        self._conclude = conclude
        self._clock_s = clock_s
        self._turns: dict[Spending, Turn | int] = {}  # an offset, of one that waits on the log only
        self._joined: dict[Spending, list[Turn]] = {}
        # (object key, partition, offset of the caller) -> number by order -> (hash of the request, the key it
        # spends)
        self._by_order: dict[tuple[str, int, int], dict[int, tuple[bytes, Spending]]] = {}

    def __contains__(self, spending: Spending) -> bool:
        return spending in self._turns

    def clear(self) -> None:
        """Remove all keys: the epoch is over."""
        self._turns.clear()
        self._joined.clear()
        self._by_order.clear()

    def enter(self, command: Command, waiting: Turn | int) -> None:
        """A command has arrived under a key that was not in flight, or one that
        waited on the log has been read.
        """
        spending = spending_of(command)
        key = call_key(command.principal, spending[2]) if command.principal else None
        first = self._turns.get(spending)
        if first is None or key is not None or _offset_of(first) == _offset_of(waiting):
            self._turns[spending] = waiting
        if key is not None and key.kind == CALL_KEY and not key.content:
            calls = self._by_order.setdefault((command.key, key.partition, key.offset), {})
            calls[key.n] = payload_hash(command), spending

    def is_copy(self, turn: Turn) -> bool:
        """True if its key is in flight and it is not to run: a copy of a call, or of a door's command.

        A copy of a call gets the first one's answer; a door's command is refused.
        """
        command = turn.command
        spending = spending_of(command)
        key = call_key(command.principal, spending[2]) if command.principal else None
        if key is None:
            if spending not in self._turns or not is_of_a_door(command.reply_to):
                return False
            text = f"a command with the idempotency key {command.client_key!r} is in flight"
            self._conclude(turn, not_done(KeyConflict(text)))
            return True
        place = spending if spending in self._turns else self._first_by_order(command, key)
        if place is None:
            return False
        self._joined.setdefault(place, []).append(turn)
        first = self._turns[place]
        if isinstance(first, Turn) and first.concluded:
            self.answer_copies(first)
        return True

    def outcome_of_first(self, turn: Turn) -> Outcome | None:
        """The outcome of a client's command that waited for another one with its key; None: it runs."""
        spending = spending_of(turn.command)
        first = self._turns.get(spending)
        if first is turn:
            return None
        if isinstance(first, Turn) and first.offset != turn.offset and first.concluded:
            entry = first.entry
            if entry is not None and entry.client_key is not None and entry.outcome != UNAVAILABLE:
                return outcome_of_spent(turn, entry.payload_hash, entry.reply)
            turn.again = turn.again or (entry is not None and entry.client_key is not None)
        self._turns[spending] = turn
        return None

    def answer_copies(self, first: Turn) -> None:
        """Conclude the copies of a call that has been concluded, right behind it."""
        if not self._joined:
            return
        for copy in self._joined.pop(spending_of(first.command), ()):
            if first.entry is not None:
                self._conclude(copy, Outcome(first.entry.reply, False, False, False))
            else:
                self._conclude(copy, copy_outcome(copy, self._tables, self._clock_s))

    def _first_by_order(self, command: Command, key: CallKey) -> Spending | None:
        flying = self._by_order.get((command.key, key.partition, key.offset)) if self._by_order else None
        if not flying or not key.content or key.parent:
            return None
        hashed = payload_hash(command)
        equal = {n: spending for n, (request, spending) in flying.items() if request == hashed}
        answered = self._tables.answered_calls.by_order(key.partition, key.offset)
        numbers = sorted({*equal, *(n for n, each in answered if each.payload_hash == hashed)})
        return equal.get(numbers[key.n - 1]) if 0 < key.n <= len(numbers) else None

    def forget(self, turn: Turn) -> None:
        """Remove the key of a turn, unless another one has it by now: its outcome is durable."""
        command = turn.command
        spending = spending_of(command)
        first = self._turns.get(spending)
        if first is turn or (first is not None and _offset_of(first) == turn.offset):
            del self._turns[spending]
        key = call_key(command.principal, spending[2]) if self._by_order else None
        if key is not None and key.kind == CALL_KEY and not key.content:
            place = command.key, key.partition, key.offset
            calls = self._by_order.get(place, {})
            calls.pop(key.n, None)
            if not calls:
                self._by_order.pop(place, None)

    def turn_of(self, spending: Spending) -> Turn | int | None:
        """Return the turn in flight under this key, or the offset of its
        command if only that is in memory.
        """
        return self._turns.get(spending)

    def calls(self) -> Iterator[tuple[CallKey, Spending, Turn | int]]:
        """All calls of turns that are in flight here."""
        for spending, waiting in self._turns.items():
            key = call_key(spending[1], spending[2])
            if key is not None and key.kind == CALL_KEY:
                yield key, spending, waiting
