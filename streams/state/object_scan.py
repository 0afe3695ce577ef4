"""The scan for the objects of a partition, in its tables.

There is no list of objects: administration, migrations and the check for classes that were renamed find them
by the rows that they have.

Laws
- An object exists if it has a value, an alarm or a WebSocket, or is paused. [test_listing.py]
- Names are in the order of their UTF-8 bytes. The rows read grow with the number of objects, not with what
  they hold: from one object's first row the scan seeks the next object's. [test_listing.py]
- Between two objects the tables may change: each result is true when it is yielded.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import cast

from perdure.schemas.errors import StorageFailed, StoreCorrupt
from perdure.streams.state.memtables import after
from perdure.streams.state.tables import Tables
from perdure.streams.store.base import Store

_logger = logging.getLogger("perdure")
_KINDS = (b"v", b"a", b"w")  # kinds of rows whose key begins with an object's, and NUL


def objects_of(tables: Tables, namespace: str, low: str, high: str | None) -> Iterator[str]:
    """Keys of the objects of `namespace` in the partition of `tables` whose names are from `low` on and below
    `high` (None: all from `low` on), in order.
    """
    prefix = f"{namespace}/".encode()
    end = after(prefix) if high is None else prefix + high.encode("utf-8", "surrogatepass")
    at = prefix + low.replace("\0", "\1").encode("utf-8", "surrogatepass")  # after a name is after its rows
    waiting = sorted(key for key in map(str.encode, _unwritten(tables)) if at <= key < end)
    waiting.reverse()  # the next one is the last
    while True:
        while waiting and waiting[-1] < at:
            waiting.pop()
        heads = [each for kind in _KINDS if (each := _next(tables, kind, at, end)) is not None]
        heads += waiting[-1:]
        if not heads:
            return
        first = min(heads)
        key = first.decode()
        if is_there(tables, key):
            yield key
        at = first + b"\1"  # no name holds a control character


def namespaces_of(tables: Tables) -> Iterator[str]:
    """The namespaces of a partition that have an object."""
    seen = set()
    for key in _unwritten(tables):
        namespace = key.partition("/")[0]
        if namespace not in seen and is_there(tables, key):
            seen.add(namespace)
            yield namespace
    at, end = b"", b"\xff"
    while heads := [each for kind in _KINDS if (each := _next(tables, kind, at, end)) is not None]:
        name, _, _ = min(heads).partition(b"/")
        yield name.decode()
        at = after(name + b"/")


def warn_of_the_unserved(all_tables: Iterable[Tables], served: Mapping[str, str]) -> None:
    """Warn of namespaces that have objects and no class: most likely a class was renamed without a migration.

    `served`: namespace → the name of its class.
    """
    homes = {name: namespace for namespace, name in served.items()}
    kept = set[str]()
    for tables in all_tables:
        try:
            kept.update(namespaces_of(tables))
        except (StorageFailed, StoreCorrupt) as error:  # the objects whose rows these are will say so
            _logger.warning("namespaces of partition %d are not known: %s", tables.partition, error)
    for namespace in sorted(kept - served.keys()):
        text = "objects of %s are kept and not served: no class has that namespace. "
        if (home := homes.get(namespace)) is None:
            text += (
                "If its class has another name now, or is to be deleted with its data, declare that in [[migrations]]: "
                "renamed_classes, deleted_classes"
            )
            _logger.warning(text, namespace)
        else:  # migrations speak of classes: to delete this one would delete the objects of another namespace
            text += (
                "The class %s is that of %s, so deleted_classes would delete the objects of %s. To serve or delete those "
                "of %s give that class another name (renamed_classes), then create %s again in a later migration (new_classes)"
            )
            _logger.warning(text, namespace, namespace, home, home, namespace, namespace)


def is_there(tables: Tables, key: str) -> bool:
    """True if object `key` exists."""
    if key in tables.admin.paused:
        return True
    for _ in tables.values.scan(key, "", None):
        return True
    return bool(tables.alarms.of(key) or tables.sockets.of(key))


def _unwritten(tables: Tables) -> set[str]:
    """The keys of objects that may exist without a row in the store yet."""
    keys = set(tables.admin.paused)
    number = tables.partition.to_bytes(2, "big")
    heads = tuple(kind + number for kind in _KINDS)
    for memtable in tables.memtables.newest_first:
        keys.update(memtable.values)
        for row in memtable.rows:
            if row.startswith(heads):
                keys.add(row[3:].partition(b"\0")[0].decode())
    return keys


def _next(tables: Tables, kind: bytes, at: bytes, end: bytes) -> bytes | None:
    """The key of the first object from `at` on that has a row of this kind in the store."""
    head = kind + tables.partition.to_bytes(2, "big")
    store: Store = tables.store
    rows = cast(Generator[tuple[bytes, bytes], None, None], store.scan(head + at, head + end))
    with closing(rows):
        for row, _ in rows:
            return row[len(head) :].partition(b"\0")[0]
    return None
