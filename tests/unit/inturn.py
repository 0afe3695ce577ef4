"""One object's state and its turns, over a plain dict: what the stories about storage have in common."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

from perdure.objects.overlay import Overlay, TurnLimits, current_turn
from perdure.objects.state import State
from perdure.schemas.expiry import parse_hidden
from perdure.schemas.values import encode_value

NOW_MS = 1_700_000_000_000
NOW_S = NOW_MS // 1000


class Committed:
    """A view over a dict; it fails when it is told to, and counts the rows and the scans it gives."""

    def __init__(self, values: dict[str, Any] | None = None) -> None:
        self.rows = {name: encode_value(name, value) for name, value in (values or {}).items()}
        self.failure: Exception | None = None
        self.read = 0
        self.open = 0

    def get(self, name: str) -> bytes | None:
        if self.failure is not None:
            raise self.failure
        return self.rows.get(name)

    def scan(self, start: str, end: str | None, *, reverse: bool) -> Iterator[tuple[str, bytes]]:
        if self.failure is not None:
            raise self.failure
        names = sorted(self.rows)
        names = names[bisect_left(names, start) : len(names) if end is None else bisect_left(names, end)]
        self.open += 1
        try:
            for name in reversed(names) if reverse else names:
                if self.failure is not None:
                    raise self.failure
                self.read += 1
                yield name, self.rows[name]
        finally:
            self.open -= 1

    def commit(self, overlay: Overlay) -> None:
        """Fold a turn's writes."""
        if overlay.cleared:
            self.rows.clear()
        for name, encoded in overlay.changes.items():
            if encoded is None:
                self.rows.pop(name, None)
            else:
                self.rows[name] = encoded

    @property
    def hidden(self) -> list[tuple[int, str]]:
        """What is noted to expire, in order."""
        return [parse_hidden(name) for name in sorted(self.rows) if name.startswith("\0")]


class InTurn:
    """`with InTurn(view) as state:` a turn runs; `overlay` is what it leaves, and
    commits if it was not left badly.
    """

    def __init__(
        self, view: Committed | None = None, limits: TurnLimits | None = None, *, now_ms: int = NOW_MS
    ) -> None:
        self.view = view or Committed()
        self.state = State("Counter/alice", self.view, limits or TurnLimits())
        self.overlay = Overlay()
        self.now_ms = now_ms

    def __enter__(self) -> State:
        turn = object()
        self._token = current_turn.set(turn)
        self.state.begin(turn, self.overlay, self.now_ms)
        return self.state

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.state.end()
        current_turn.reset(self._token)
        if kind is None and self.overlay.failure is None:
            self.view.commit(self.overlay)
