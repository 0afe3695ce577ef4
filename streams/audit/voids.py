"""Which records of a shared journal count, for readers that do not read it from its beginning."""

from __future__ import annotations

from typing import Any

from perdure.schemas.journal import Claim


class Voids:
    """Finds the records that do not count: their epoch is not the newest claim's. It sees each in order.

    The first ones it sees count for it: a reader that begins in the middle lets it see some before.
    """

    def __init__(self) -> None:
        self._epoch = -1

    def is_void(self, offset: int, record: Any) -> bool:
        """True if the next record of the journal does not count."""
        if isinstance(record, Claim):
            if record.after not in (None, self._epoch) and self._epoch >= 0:
                return True
            self._epoch = offset
            return False
        epoch: int = getattr(record, "epoch", -1)
        if epoch < 0:
            return False
        self._epoch = max(self._epoch, epoch)
        return epoch != self._epoch
