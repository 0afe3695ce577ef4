"""Back-off: the pauses between repeated attempts, and which of the attempts deserve a line in the log.

Laws
- A pause doubles from `first_s` to `longest_s`; each is drawn between half of that and one and a half times
  it, so that many that failed together do not try again together.
- Attempts 1, 2, 4, 8, … are logged: the first failure at once, a lasting one rarely.
Pure: the randomness is given.
"""

from __future__ import annotations

from random import Random


class Backoff:
    """The pauses of one loop of attempts. `attempts`: how many have failed since the last `reset`."""

    __slots__ = ("_first_s", "_longest_s", "_random", "attempts")

    def __init__(self, first_s: float, longest_s: float, random: Random) -> None:
        assert 0 < first_s <= longest_s
        self._first_s = first_s
        self._longest_s = longest_s
        self._random = random
        self.attempts = 0

    def failed(self) -> float:
        """Count an attempt that failed; the pause before the next one, in seconds."""
        doublings = min(self.attempts, 32)  # of a float: more are never needed
        self.attempts += 1
        return min(self._first_s * 2.0**doublings, self._longest_s) * (0.5 + self._random.random())

    @property
    def worth_logging(self) -> bool:
        """True if the attempt that failed last deserves a line in the log."""
        return self.attempts & (self.attempts - 1) == 0

    def reset(self) -> None:
        """An attempt succeeded: the next failure is a first one."""
        self.attempts = 0
