"""Location hints: where an object should live, recorded with it until there is a choice of places.

Laws
- The first hint that reaches the object in a turn which commits is kept, under a hidden name of its state;
  later ones are not: an object is placed once. `delete_all` forgets it.
- A hint has no effect yet: every id routes to one place, with a hint or without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.schemas.values import decode_value, encode_value

if TYPE_CHECKING:
    from perdure.objects.overlay import Overlay, View
    from perdure.schemas.commands import Command

PLACE = "\0hint"
MAX_HINT_CHARS = 32


def checked_hint(hint: str | None) -> str:
    """A hint as it goes with a command, empty for None.

    Raises ValueError for one that is not a short word.
    """
    if hint is None:
        return ""
    if (
        type(hint) is not str
        or not 0 < len(hint) <= MAX_HINT_CHARS
        or not (hint.isascii() and hint.isprintable())
    ):
        raise ValueError(
            f"a location_hint is a word such as 'weur', at most {MAX_HINT_CHARS} characters: {hint!r:.60}"
        )
    return hint


def note_hint(hint: str, view: View, overlay: Overlay) -> None:
    """Keep the hint of a command whose turn is about to commit `overlay`, if it is the object's first."""
    try:
        known = None if overlay.cleared else view.get(PLACE)
    except Exception:  # noqa: BLE001 - whatever the store raises: a hint is not worth a turn that has succeeded
        return
    if known is None:
        overlay.set(PLACE, encode_value(PLACE, hint))


class LocationMethods:
    """The part of `self.state` that reports the location hint."""

    __slots__ = ()

    if TYPE_CHECKING:
        _turn: Any

        def _lookup(self, name: str) -> bytes | None: ...

    @property
    def location_hint(self) -> str | None:
        """The first `location_hint` that was given to `get` for this object; None if there was none."""
        encoded = self._lookup(PLACE)
        if encoded is not None:
            return str(decode_value(encoded))
        command: Command = self._turn.command
        return command.hint or None
