"""Randomness of a turn: the same whenever it runs again, so that it makes the same calls."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, cast
from uuid import UUID

if TYPE_CHECKING:
    from perdure.objects.overlay import Overlay
    from perdure.objects.ports import Caller


class RandomMethods:
    """The part of `self.state` that draws random numbers."""

    __slots__ = ()

    if TYPE_CHECKING:
        _turn: object

        def inside(self) -> Overlay: ...

    @property
    def random(self) -> Random:
        """A `random.Random` of the running turn.

        It gives the same numbers when the turn runs again after a crash, or when its command is repeated
        under its idempotency key. Tasks that run side by side draw in the order in which they ask.
        """
        self.inside()
        return cast("Caller", self._turn).random

    def uuid(self) -> UUID:
        """A random UUID (version 4), drawn from `random`."""
        return UUID(int=self.random.getrandbits(128), version=4)
