"""Which objects of a partition there are, found in its tables.

Laws
- An object is there if it has a value, an alarm or a WebSocket, or is paused.
- Names come in the order of their UTF-8 bytes. What is read grows with the objects that are passed, not with what they
  hold: from one object's first row the next object's is sought.
- Between two objects the tables may change: what is told of each is true when it is told.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import cast

from perdure.streams.state.memtables import after
from perdure.streams.state.tables import Tables
from perdure.streams.store.base import Store

_logger = logging.getLogger("perdure")
_KINDS = (b"v", b"a", b"w")  # kinds of rows whose key begins with an object's, and NUL


def objects_of(tables: Tables, namespace: str, low: str, high: str | None) -> Iterator[str]:
    """Keys of the objects of `namespace` in a partition whose names are from `low` on and below `high`."""
    prefix = f"{namespace}/".encode()
    end = after(prefix) if high is None else prefix + high.encode("utf-8", "surrogatepass")
    at = prefix + low.replace("\0", "\1").encode("utf-8", "surrogatepass")  # behind a name: behind its rows
    waiting = sorted(key for key in map(str.encode, _unwritten(tables)) if at <= key < end)
    waiting.reverse()  # the next one is the last
    while True:
        while waiting and waiting[-1] < at:
            waiting.pop()
        found = [each for kind in _KINDS if (each := _next(tables, kind, at, end)) is not None]
        found += waiting[-1:]
        if not found:
            return
        first = min(found)
        key = first.decode()
        if is_there(tables, key):
            yield key
        at = first + b"\1"  # no name holds a control character


def namespaces_of(tables: Tables) -> Iterator[str]:
    """The namespaces of a partition that there is an object of."""
    seen = set()
    for key in _unwritten(tables):
        namespace = key.partition("/")[0]
        if namespace not in seen and is_there(tables, key):
            seen.add(namespace)
            yield namespace
    at, end = b"", b"\xff"
    while found := [each for kind in _KINDS if (each := _next(tables, kind, at, end)) is not None]:
        name, _, _ = min(found).partition(b"/")
        yield name.decode()
        at = after(name + b"/")


def warn_of_the_unserved(all_tables: Iterable[Tables], served: Mapping[str, str]) -> None:
    """Tell of namespaces that there are objects of and no class: one that was renamed without saying so, most likely.

    `served`: namespace → the name of its class.
    """
    homes = {name: namespace for namespace, name in served.items()}
    for namespace in sorted(
        {each for tables in all_tables for each in namespaces_of(tables)} - served.keys()
    ):
        told = "objects of %s are kept and not served: no class stands behind that namespace. "
        if (home := homes.get(namespace)) is None:
            told += (
                "If its class has another name now, or is to go with its data, say so in [[migrations]]: renamed_classes, "
                "deleted_classes"
            )
            _logger.warning(told, namespace)
        else:  # migrations speak of classes: to delete this one would delete the objects of another namespace
            told += (
                "The class %s is that of %s, so deleted_classes would delete the objects of %s. To serve or delete those "
                "of %s give that class another name (renamed_classes), then make %s anew by a later migration (new_classes)"
            )
            _logger.warning(told, namespace, namespace, home, home, namespace, namespace)


def is_there(tables: Tables, key: str) -> bool:
    """Is there anything of object `key`?"""
    if key in tables.admin.paused:
        return True
    for _ in tables.values.scan(key, "", None):
        return True
    return bool(tables.alarms.of(key) or tables.sockets.of(key))


def _unwritten(tables: Tables) -> set[str]:
    """The keys of objects that may be there and not in the store yet."""
    found = set(tables.admin.paused)
    number = tables.partition.to_bytes(2, "big")
    heads = tuple(kind + number for kind in _KINDS)
    for piece in tables.memtables.newest_first():
        found.update(piece.values)
        for row in piece.rows:
            if row.startswith(heads):
                found.add(row[3:].partition(b"\0")[0].decode())
    return found


def _next(tables: Tables, kind: bytes, at: bytes, end: bytes) -> bytes | None:
    """The key of the first object from `at` on that has a row of this kind in the store."""
    head = kind + tables.partition.to_bytes(2, "big")
    store: Store = tables.store
    rows = cast(Generator[tuple[bytes, bytes], None, None], store.scan(head + at, head + end))
    with closing(rows):
        for row, _ in rows:
            return row[len(head) :].partition(b"\0")[0]
    return None
