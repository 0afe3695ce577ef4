"""Shares of the partitions: which process folds which of them, where several use one folder.

Each process holds a lock for itself and one for each of its partitions. They are locks of the kernel: they
end with the process, whatever it dies of, and no other process gets them while it lives, also if it is
stopped for a while.

Laws [test_projections.py]
- A partition's rows are written only by the process that has its lock.
- A process gives partitions up if it has more than its share, which is the number of partitions by that of
  live processes, rounded up; and takes free ones while it has fewer.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from uuid import uuid4

_MEMBERS, _LOCKS = "processes", "locks"


class Shares:
    """This process among those that fold the partitions of one folder. Raises `OSError`."""

    def __init__(self, folder: Path, partitions: int) -> None:
        self._partitions = partitions
        self._members = folder / _MEMBERS
        self._locks = folder / _LOCKS
        self._members.mkdir(parents=True, exist_ok=True)
        self._locks.mkdir(exist_ok=True)
        self._name = self._members / uuid4().hex
        self._me = _locked(self._name)
        self._held: dict[int, int] = {}

    @property
    def held(self) -> list[int]:
        """The partitions that this process has."""
        return sorted(self._held)

    def share(self) -> int:
        """How many partitions a process may have at present."""
        return -(-self._partitions // max(self._live(), 1))

    def _live(self) -> int:
        """The number of live processes; the files of those that ended are removed."""
        live = 0
        for member in self._members.iterdir():
            if member == self._name or is_locked(member):
                live += 1
            else:
                member.unlink(missing_ok=True)
        return live

    def take(self) -> int | None:
        """Take a free partition, if this process has fewer than its share; None: there is none to take."""
        if len(self._held) >= self.share():
            return None
        for partition in range(self._partitions):
            if partition not in self._held:
                lock = _locked(lock_in(self._locks.parent, partition))
                if lock is not None:
                    os.truncate(lock, 0)
                    os.write(lock, str(os.getpid()).encode())
                    self._held[partition] = lock
                    return partition
        return None

    def excess(self) -> list[int]:
        """The partitions to give up, as this process has more than its share."""
        return self.held[self.share() :]

    def give_up(self, partition: int) -> None:
        """Release a partition, whose database has been closed."""
        os.close(self._held.pop(partition))

    def close(self) -> None:
        """Leave; the partitions have been given up."""
        for partition in self.held:
            self.give_up(partition)
        if self._me is not None:
            self._name.unlink(missing_ok=True)
            os.close(self._me)
            self._me = None


def lock_in(folder: Path, partition: int) -> Path:
    """The file that is locked while a process has a partition."""
    return folder / _LOCKS / str(partition)


def is_locked(file: Path) -> bool:
    """True if a process has the lock of `file`."""
    try:
        opened = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(opened)
    return False


def _locked(file: Path) -> int | None:
    """The descriptor of `file`, locked; None if another process has it."""
    opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return opened
    os.close(opened)
    return None
