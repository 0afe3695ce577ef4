"""What a disk holds after the power went: computed from a traced run, for any moment of it.

Laws
- Certain to be there: what a completed fsync of the file covered, if the file's name is certain too: its
  directory or the file itself was fsynced after it was made or renamed.
- What was written and not synced may be there in part, in order; `extra` says how much of it, and `zeros`
  turns that into zero bytes, which file systems leave behind where the size reached the disk before the data.
- Of a page that is mapped from a file (ACKED) nothing has reached the disk: it is
  not fsynced, and may be as old as that.
- Holds for files that are only appended to and were not removed since: that is all of the log's and the
  store's files between two starts. An existing file that is emptied has lost its content at once.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tests.acceptance.strace import Call

from perdure.streams.log.embedded import acked_page


class Disk:
    """Follows a trace: `step` each call; `answers` is how many responses had left by then."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.answers = 0
        self.written: dict[Path, int] = defaultdict(int)
        self.synced: dict[Path, int] = defaultdict(int)
        self.named: set[Path] = set()
        self._new: set[Path] = set()
        self._syncing: dict[int, tuple[int, set[Path]]] = {}

    def step(self, call: Call) -> None:
        file = call.file
        if file is None:
            self.answers += call.size_bytes is None  # from the moment it is sent on it may be known
        elif not file.is_relative_to(self.data):
            return
        elif call.name in ("fsync", "fdatasync"):
            self._sync(file, call)
        elif call.size_bytes is None:
            return
        elif call.name == "create":
            self.written[file] = self.synced[file] = 0
            if file not in self.named:
                self._new.add(file)
        elif call.name == "rename":
            assert call.to is not None
            self._rename(file, call.to)
        elif call.name in ("write", "pwrite64"):
            self.written[file] += call.size_bytes

    def _sync(self, file: Path, call: Call) -> None:
        """What was there when it was entered is safe when it returns."""
        if call.size_bytes is None:
            self._syncing[call.thread] = (
                self.written[file],
                {each for each in self._new if each.parent == file},
            )
            return
        size_bytes, entries = self._syncing.pop(call.thread)
        self.synced[file] = max(self.synced[file], size_bytes)
        self.named |= entries | {file}
        self._new -= self.named

    def _rename(self, old: Path, new: Path) -> None:
        """The content keeps its standing; the new name is to be made safe by its directory."""
        for sizes in (self.written, self.synced):
            for each in [each for each in sizes if each.is_relative_to(old)]:
                sizes[new / each.relative_to(old)] = sizes.pop(each)
        for names in (self.named, self._new):
            for each in [each for each in names if each.is_relative_to(old)]:
                names.remove(each)
                names.add(new / each.relative_to(old))
        self.named.discard(new)
        self._new.add(new)

    def copy_to(self, target: Path, *, extra: float = 0.0, zeros: bool = False) -> None:
        """Write down what the disk holds: the certain part, and the share `extra` (0 to 1) of the rest."""
        for file in sorted(self.data.rglob("*")):
            if file.is_dir() or not all(each in self.named for each in self._way_to(file)):
                continue
            synced, written = self.synced[file], self.written[file]
            size_bytes = synced + int((written - synced) * extra)
            copy = target / file.relative_to(self.data)
            copy.parent.mkdir(parents=True, exist_ok=True)
            content = file.read_bytes()[:size_bytes]
            assert len(content) == size_bytes, f"{file} is shorter than what was written to it"
            if file.name == acked_page.NAME:
                content = bytes(size_bytes)  # what it holds now it did not hold then
            copy.write_bytes(content[:synced] + bytes(size_bytes - synced) if zeros else content)

    def _way_to(self, file: Path) -> list[Path]:
        """The file and the directories it lies in that were renamed into place."""
        return [file, *(each for each in file.parents if each in self._new)]
