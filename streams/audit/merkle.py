"""Merkle trees over a journal's records, as RFC 9162 defines them (§2.1): roots and proofs.

A leaf is the record as it lies on the log: `record_leaf`. An inclusion proof shows that a record is in the
tree of a root; a consistency proof that a later tree only added leaves to an earlier one.

Laws [test_merkle.py]
- Leaves and inner nodes are hashed with different first bytes (0 and 1), so none can pass for the other.
- Pure: hashes in, hashes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import msgspec

from perdure.streams.log.base import LogRecord

HASH_BYTES = 32
_encode = msgspec.msgpack.Encoder().encode


def record_leaf(record: LogRecord) -> bytes:
    """The leaf of a record: the MessagePack of time, key, value and headers."""
    return _encode((record.time_ms, record.key, record.value, record.headers))


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\0" + leaf).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


class Tree:
    """A tree over leaf hashes, which are appended one by one; it keeps all of them, 32 bytes each."""

    def __init__(self) -> None:
        self._leaves = bytearray()
        self._full: dict[tuple[int, int], bytes] = {}  # the roots of large complete subtrees

    @property
    def size(self) -> int:
        """How many leaves it has."""
        return len(self._leaves) // HASH_BYTES

    def append(self, hashed: bytes) -> None:
        """Add the hash of the next leaf."""
        self._leaves += hashed

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` leaves; None: all."""
        size = self.size if size is None else size
        return self._hash(0, size) if size else sha256().digest()

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The proof that leaf `index` is in the tree of the first `size` leaves; None: all."""
        return self._path(index, 0, self.size if size is None else size)

    def consistency(self, first: int, size: int | None = None) -> list[bytes]:
        """The proof that the tree of the first `first` leaves grew into that of `size`; None: all."""
        size = self.size if size is None else size
        return [] if first in (0, size) else self._subproof(first, 0, size, whole=True)

    def _hash(self, low: int, high: int) -> bytes:
        count = high - low
        if count == 1:
            return bytes(self._leaves[low * HASH_BYTES : high * HASH_BYTES])
        known = self._full.get((low, high))
        if known is None:
            middle = low + _split(count)
            known = _node(self._hash(low, middle), self._hash(middle, high))
            if count >= 1024 and count & (count - 1) == 0:
                self._full[low, high] = known
        return known

    def _path(self, index: int, low: int, high: int) -> list[bytes]:
        if high - low == 1:
            return []
        middle = low + _split(high - low)
        if index < middle:
            return [*self._path(index, low, middle), self._hash(middle, high)]
        return [*self._path(index, middle, high), self._hash(low, middle)]

    def _subproof(self, first: int, low: int, high: int, *, whole: bool) -> list[bytes]:
        if first == high:
            return [] if whole else [self._hash(low, high)]
        middle = low + _split(high - low)
        if first <= middle:
            return [*self._subproof(first, low, middle, whole=whole), self._hash(middle, high)]
        return [*self._subproof(first, middle, high, whole=False), self._hash(low, middle)]


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def proves_inclusion(hashed: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """True if a proof shows that a leaf is in a tree (RFC 9162 §2.1.3.2).

    hashed: the hash of the leaf.
    index, size: the leaf's place, and the size of the tree.
    proof: from `Tree.inclusion`.
    root: of the tree.
    """
    if not 0 <= index < size:
        return False
    place, last = index, size - 1
    for each in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            hashed = _node(each, hashed)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            hashed = _node(hashed, each)
        place, last = place >> 1, last >> 1
    return last == 0 and hashed == root


def proves_consistency(first: int, first_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """True if a proof shows that a tree only grew (RFC 9162 §2.1.4.2).

    first, first_root: size and root of the earlier tree.
    size, root: of the later one.
    proof: from `Tree.consistency`.
    """
    if first == size:
        return not proof and first_root == root
    if first == 0:
        return not proof
    if not 0 < first < size or not proof:
        return False
    path = [*proof] if first & (first - 1) else [first_root, *proof]
    place, last = first - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for each in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = _node(each, old), _node(each, new)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            new = _node(new, each)
        place, last = place >> 1, last >> 1
    return last == 0 and old == first_root and new == root
