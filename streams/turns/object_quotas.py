"""Quotas of objects: how many each principal has made, and what comes of a turn that would make one too many.

Laws
- Counted is what a node's partitions have, durable or not yet: what is made meanwhile counts at once, so that of a hundred
  that come together as many get through as are left.
- An object is made by the first turn that writes a value to it, for whoever sent that turn's command. A turn that makes
  one over the quota commits nothing, and neither does one of which it cannot be read who made its object.
- What objects ask of objects counts against nobody, and so does all that comes without a principal.
- Replay asks nobody: what was made is made, whatever the quota is now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from perdure.objects.overlay import Overlay
from perdure.objects.turn import Outcome, conclude, given_up, nobody_asks_again, not_done
from perdure.schemas.admin import MADE, Change
from perdure.schemas.calls import PRINCIPAL
from perdure.schemas.errors import OverQuota
from perdure.streams.state.creator_rows import CreatorRows

if TYPE_CHECKING:  # they stand on this file
    from perdure.streams.turns.activation import Resident, Turn

# who made an object in memory: a principal, or one of these (no principal from outside is called so)
EMPTY = ""  # it has no values
UNCOUNTED = PRINCIPAL  # nobody who is counted
RETRY_AFTER_S = 60.0  # somebody has to delete an object first


class ObjectQuotas:
    """Of all partitions of a process. `quota_of(principal)`: how many objects it may have made; None: any number."""

    def __init__(self, quota_of: Callable[[str], int | None]) -> None:
        self._quota_of = quota_of
        self._made: dict[int, Counter[str]] = {}  # by partition, those that it serves

    def begin(self, partition: int, creators: CreatorRows) -> None:
        """A partition is served from here on."""
        self._made[partition] = Counter(dict(creators.counts()))

    def end(self, partition: int) -> None:
        """It is served no more."""
        self._made.pop(partition, None)

    def count(self, principal: str) -> int:
        """How many objects `principal` has made that are there."""
        return sum(made[principal] for made in self._made.values())

    def check_quota(self, turn: Turn, outcome: Outcome) -> Outcome:
        """What a turn comes to: `outcome`, noted if it makes its object, or a refusal if that is one too many."""
        overlay, principal = turn.overlay, turn.command.principal
        assert overlay is not None
        counts = bool(principal) and not principal.startswith(PRINCIPAL) and _puts(overlay)
        if not outcome.commit or not (counts or overlay.cleared):
            return outcome
        try:
            maker = _maker(turn)
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing finer
            overlay.failure = error
            return conclude(turn.command, None, error, overlay)
        if not counts or (maker != EMPTY and not overlay.cleared):
            return outcome
        quota = self._quota_of(principal)
        count = self.count(principal)
        if quota is not None and count - (maker == principal) >= quota:
            told = (
                f"{principal} has made {count} objects, and may have made {quota} (quotas): delete some first"
            )
            refused = replace(not_done(OverQuota(told)), drop_instance=True)
            return given_up(refused) if nobody_asks_again(turn.command) else refused
        turn.changes = (*turn.changes, Change(MADE))
        return outcome

    def committed(self, turn: Turn, overlay: Overlay) -> None:
        """A turn has committed this."""
        resident = turn.resident
        assert resident is not None
        made = self._made[resident.tables.partition]
        if overlay.cleared:
            made[_maker(turn)] -= 1  # of what nobody made nobody asks the count
            resident.maker = EMPTY
        if _makes(turn):
            resident.maker = turn.command.principal
            made[resident.maker] += 1
        elif resident.maker == EMPTY and _puts(overlay):
            resident.maker = UNCOUNTED


def _makes(turn: Turn) -> bool:
    """Does the turn's entry say that it makes its object?"""
    return any(change.what == MADE for change in turn.changes)


def _maker(turn: Turn) -> str:
    resident = turn.resident
    assert resident is not None
    if resident.maker is None:
        resident.maker = _found(resident)
    return resident.maker


def _found(resident: Resident) -> str:
    """Who made an object that has just come into memory: its rows tell, nothing of it is under way."""
    maker = resident.tables.creators.of(resident.key)
    if maker is not None:
        return maker
    there = next(resident.scan("", None, reverse=False), None) is not None
    return UNCOUNTED if there else EMPTY


def _puts(overlay: Overlay) -> bool:
    return any(value is not None for value in overlay.changes.values())
