"""Object quotas: how many objects each principal has created, and the refusal of one too many.

The runner consults `ObjectQuotas.check_quota` when a handler has ended, before its outcome becomes an entry;
the committer reports what was committed. Counts are read from the tables when a partition is served.

Laws [test_object_quotas.py]
- The count covers all partitions of this node, durable or not. An object counts as soon as its turn ends, so
  of a hundred concurrent creations only as many succeed as the quota has left.
- The first turn that writes a value creates the object, on behalf of the principal of that turn's command. A
  turn that exceeds the quota commits nothing; neither does a turn whose object's creator cannot be read.
- Calls between objects, and commands without a principal, are not counted.
- Replay checks no quota: an object that was created stays, whatever the quota is now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from perdure.objects.overlay import Overlay
from perdure.objects.turn import Outcome, conclude, given_up, not_done, sender_never_retries
from perdure.schemas.admin import MADE, Change
from perdure.schemas.calls import PRINCIPAL
from perdure.schemas.errors import OverQuota
from perdure.streams.state.creator_rows import CreatorRows

if TYPE_CHECKING:  # they stand on this file
    from perdure.streams.turns.activation import Activation, Turn

# the creator of an object in memory: a principal, or one of these (no client's principal has such a name)
EMPTY = ""  # it has no values
UNCOUNTED = PRINCIPAL  # its creator is not counted
RETRY_AFTER_S = 60.0  # an object has to be deleted first


class ObjectQuotas:
    """The object counts of all partitions of a process. `quota_of(principal)`: its quota; None: unlimited."""

    def __init__(self, quota_of: Callable[[str], int | None]) -> None:
        self._quota_of = quota_of
        self._made: dict[int, Counter[str]] = {}  # by partition, those that it serves

    def begin(self, partition: int, creators: CreatorRows) -> None:
        """Start counting a partition: it is served from now on."""
        self._made[partition] = Counter(dict(creators.counts()))

    def end(self, partition: int) -> None:
        """Stop counting a partition."""
        self._made.pop(partition, None)

    def count(self, principal: str) -> int:
        """Return the number of existing objects that `principal` created."""
        return sum(made[principal] for made in self._made.values())

    def check_quota(self, turn: Turn, outcome: Outcome) -> Outcome:
        """Return `outcome`, or a refusal if the turn would create one object too
        many. Notes a creation in `turn.changes`.
        """
        overlay, principal = turn.overlay, turn.command.principal
        assert overlay is not None
        counts = bool(principal) and not principal.startswith(PRINCIPAL) and _puts(overlay)
        if not outcome.commit or not (counts or overlay.cleared):
            return outcome
        try:
            creator = _creator(turn)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing finer
            overlay.failure = error
            return conclude(turn.command, None, error, overlay)
        if not counts or (creator != EMPTY and not overlay.cleared):
            return outcome
        quota = self._quota_of(principal)
        count = self.count(principal)
        if quota is not None and count - (creator == principal) >= quota:
            text = (
                f"{principal} has made {count} objects, and may have made {quota} (quotas): delete some first"
            )
            refused = replace(not_done(OverQuota(text)), drop_instance=True)
            return given_up(refused) if sender_never_retries(turn.command) else refused
        turn.changes = (*turn.changes, Change(MADE))
        return outcome

    def committed(self, turn: Turn, overlay: Overlay) -> None:
        """Update the counts after a commit."""
        activation = turn.activation
        assert activation is not None
        made = self._made[activation.tables.partition]
        if overlay.cleared:
            made[_creator(turn)] -= 1  # the count of EMPTY and UNCOUNTED is never read
            activation.creator = EMPTY
        if _makes(turn):
            activation.creator = turn.command.principal
            made[activation.creator] += 1
        elif activation.creator == EMPTY and _puts(overlay):
            activation.creator = UNCOUNTED


def _makes(turn: Turn) -> bool:
    """True if the turn's entry says that it creates its object."""
    return any(change.what == MADE for change in turn.changes)


def _creator(turn: Turn) -> str:
    activation = turn.activation
    assert activation is not None
    if activation.creator is None:
        activation.creator = _read_creator(activation)
    return activation.creator


def _read_creator(activation: Activation) -> str:
    """Return the creator of an object that was just activated, from its rows: none
    of its turns is in flight.
    """
    creator = activation.tables.creators.of(activation.key)
    if creator is not None:
        return creator
    there = next(activation.scan("", None, reverse=False), None) is not None
    return UNCOUNTED if there else EMPTY


def _puts(overlay: Overlay) -> bool:
    return any(value is not None for value in overlay.changes.values())
