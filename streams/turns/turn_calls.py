"""The calls and sends of one turn: which numbers their keys have taken, and what waits or was answered.

Made by a turn's first call or send (calls.py); what was answered goes into the turn's entry.
"""

from __future__ import annotations

import asyncio
from random import Random

from perdure.schemas.calls import CALL_KEY, CallKey, Root, take_number
from perdure.schemas.journal import CallMade
from perdure.streams.turns.known_calls import Made
from perdure.streams.turns.pending_calls import Call


class TurnCalls:
    """The calls and sends of one turn so far; made by its first one."""

    __slots__ = (
        *(
            "called",
            "fresh",
            "ids",
            "made",
            "proof",
            "random",
            "requests",
            "root",
            "sends",
            "taken",
            "waiting",
        ),
    )

    def __init__(self, root: Root) -> None:
        self.root = root
        self.sends = self.ids = 0
        self.called = False
        self.taken: dict[str, int] = {}  # content -> the numbers in flight or answered, as bits
        self.requests: dict[CallKey, Made] = {}  # all calls, of a turn that may have run before
        self.fresh: list[Made] = []  # those of them that their partitions did not know
        self.waiting: dict[Call, None] = {}
        self.made: list[CallMade] = []  # those that were answered, for the turn's entry
        self.proof: asyncio.Future[None] | None = None
        self.random: Random | None = None

    def take(self, content: str) -> CallKey:
        """The key of a call with this content: the first number that is free."""
        n = take_number(self.taken, content)
        self.called = True
        return CallKey(CALL_KEY, self.root.partition, self.root.offset, n, self.root.parent, content)
