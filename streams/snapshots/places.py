"""Where snapshots lie: a directory, or an object store behind one small interface.

Laws [test_snapshot_places.py]
- `put` writes a whole object or none, and replaces nothing.
- In a directory an object has survived a power failure once `put` returns.
- Names are relative paths with `/`, without `..`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Protocol
from urllib.parse import unquote, urlsplit

from perdure.schemas.errors import ConfigError, StorageFailed
from perdure.streams.log.embedded.wal_check import fsync_path

ASIDE = ".part"  # the end of the name of a file that is being written
LEFT_S = 3600  # one that old was left by a process that was killed


class SnapshotPlace(Protocol):
    """A place for snapshots. Its methods block: call them in a thread. They raise `StorageFailed`."""

    def names(self, prefix: str) -> dict[str, int]:
        """The sizes of all objects whose names begin with `prefix/`, by name."""

    def get(self, name: str) -> bytes | None:
        """The content of an object; None if it does not exist."""

    def put(self, name: str, data: bytes) -> bool:
        """Write an object; False if one of that name exists, which stays as it is."""

    def delete(self, name: str) -> None:
        """Delete an object, if it exists."""


class DirectoryPlace:
    """A place in the directory `root`, which is made when the first object is written."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self, prefix: str) -> dict[str, int]:
        with self._errors("list"):
            return {
                path.relative_to(self._root).as_posix(): path.stat().st_size
                for path in sorted((self._root / prefix).rglob("*"))
                if path.is_file() and not path.name.endswith(ASIDE)
            }

    def get(self, name: str) -> bytes | None:
        with self._errors("read"):
            try:
                return (self._root / name).read_bytes()
            except FileNotFoundError:
                return None

    def put(self, name: str, data: bytes) -> bool:
        path = self._root / name
        with self._errors("write"):
            if path.exists():
                return False
            self._make(path.parent)
            for left in path.parent.glob(f"*{ASIDE}"):
                with suppress(FileNotFoundError):
                    if time.time() - left.stat().st_mtime > LEFT_S:
                        left.unlink()
            aside = path.with_name(f"{path.name}.{token_hex(4)}{ASIDE}")
            try:
                aside.write_bytes(data)
                fsync_path(aside)
                try:
                    os.link(aside, path)  # unlike a rename it replaces nothing
                except FileExistsError:
                    return False
            finally:
                aside.unlink(missing_ok=True)
            fsync_path(path.parent)
            return True

    def delete(self, name: str) -> None:
        with self._errors("delete"):
            (self._root / name).unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_path(folder.parent)

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageFailed(f"cannot {doing} snapshots in {self._root}: {error}") from error


class MemoryPlace:
    """A place in memory: the twin of the others, for tests. `on_put` is called before each object is
    written.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.on_put: Callable[[str], None] = lambda name: None

    def names(self, prefix: str) -> dict[str, int]:
        return {
            name: len(data) for name, data in sorted(self.objects.items()) if name.startswith(prefix + "/")
        }

    def get(self, name: str) -> bytes | None:
        return self.objects.get(name)

    def put(self, name: str, data: bytes) -> bool:
        self.on_put(name)
        if name in self.objects:
            return False
        self.objects[name] = data
        return True

    def delete(self, name: str) -> None:
        self.objects.pop(name, None)


def place_at(url: str, endpoint: str | None = None) -> SnapshotPlace:
    """The place that `[snapshots] to` names. Raises `ConfigError` if its client is not installed."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return DirectoryPlace(Path(unquote(parts.path)))
    try:
        from perdure.streams.snapshots.object_store import BucketPlace  # an extra
    except ImportError as error:
        raise ConfigError(
            f"{url} needs a client for object stores, which is not installed: pip install 'obstore>=0.9,<0.13'"
        ) from error
    return BucketPlace(url, endpoint)
