"""Transactions inside a turn: a part of it that is kept or undone as a whole.

Laws
- Left by an exception or after `rollback`, the overlay is what it was at entry; the exception propagates.
  [test_transaction.py]
- What a transaction keeps belongs to the turn, and is durable with it and not before.
- Transactions nest: one ends before the one around it. A storage failure is not rolled back.
- A turn that uses none pays nothing; one that does pays a copy of what the turn has written so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from perdure.objects.listing import Listing
from perdure.objects.overlay import Overlay, Saved
from perdure.schemas.errors import ObjectError, TurnEnded

if TYPE_CHECKING:
    from perdure.objects.state import State


class Transaction:
    """A part of a turn that can be undone alone: `async with self.state.transaction() as txn:`.

    Everything that the turn writes until the end of the block belongs to it, through `txn` as through
    `self.state`. `get`, `put`, `delete`, `delete_all`, `list` and `items` are those of `State`.
    """

    __slots__ = ("_around", "_overlay", "_saved", "_state", "_undone")

    def __init__(self, state: State) -> None:
        self._state = state
        self._overlay: Overlay | None = None
        self._saved: Saved | None = None
        self._around: Transaction | None = None
        self._undone = False

    async def __aenter__(self) -> Self:
        if self._overlay is not None:
            raise ObjectError("a transaction is entered once: call transaction() again")
        state = self._state
        self._overlay = overlay = state.inside()
        around = state.innermost
        if around is not None and around._overlay is overlay:  # otherwise a turn that is over left it open
            self._around = around
        self._saved = overlay.save()
        state.innermost = self
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state, saved = self._state, self._saved
        assert saved is not None
        self._saved = None
        try:
            overlay = state.inside()
        except TurnEnded:
            if error is None:
                raise
            return  # its overlay is forgotten already
        overlapping = state.innermost is not self
        if not overlapping:
            state.innermost = self._around
        if error is not None or self._undone or overlapping:
            overlay.restore(saved)
        if overlapping and error is None:
            raise ObjectError(
                f"two transactions of {state.id} overlap: the one begun later ends first (tasks of one turn "
                "share its writes: run their transactions one after the other)"
            )

    def rollback(self) -> None:
        """Undo what was written since the block began; what the rest of the block
        writes is undone at its end.

        `txn` cannot be used after it. Raises `ObjectError` outside the block, `TurnEnded` after the turn.
        """
        overlay = self._open().inside()
        assert self._saved is not None
        overlay.restore(self._saved)
        self._undone = True

    def _open(self) -> State:
        if self._saved is None or self._undone:
            what = "was rolled back" if self._undone else "is not open: use it inside its block"
            raise ObjectError(f"this transaction of {self._state.id} {what}")
        return self._state

    # The methods of `State`

    async def get(self, name: Any, default: Any = None, **options: Any) -> Any:
        """As `State.get`."""
        return await self._open().get(name, default, **options)

    async def put(self, name: str | Mapping[str, Any], *value: Any, **options: Any) -> None:
        """As `State.put`."""
        await self._open().put(name, *value, **options)

    async def delete(self, name: Any) -> Any:
        """As `State.delete`."""
        return await self._open().delete(name)

    async def delete_all(self) -> None:
        """As `State.delete_all`."""
        await self._open().delete_all()

    async def list(self, **options: Any) -> Listing:
        """As `State.list`."""
        return await self._open().list(**options)

    async def items(self, **options: Any) -> dict[str, Any]:
        """As `State.items`."""
        return await self._open().items(**options)
