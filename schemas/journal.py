"""Journal records: the facts that owners append, each with a format version, chained by hash.

Layout of a record's value: one version byte, a msgpack array tagged with its kind, and (entries, no-ops and
migrations) 16 bytes of chain. Version 2 added the links of entries, and what an entry says of its request and
its calls; records of version 1 are read.

Laws
- A record whose version is not known stops the reader: newer code wrote it.
- An entry links to the previous entry of its object, so that an object's history is a walk from entry to
  entry. Entries outside every history (`in_history`) neither link nor are linked to. [test_links.py]
- chain = BLAKE2b-128(chain before, all bytes in front of it). A claim carries none; after a claim the
  chain before is BLAKE2b-128(chain before, claim's offset, claim's bytes).
- An entry says what changed, so folding the journal needs no user code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Literal

import msgspec

from perdure.schemas.admin import Change
from perdure.schemas.effects import AlarmChange, Out, SocketChange
from perdure.schemas.errors import LogCorrupt
from perdure.schemas.migrations import Step
from perdure.schemas.replies import FORWARDED, REJECTED, Reply

VERSION = 2
OLDEST_VERSION = 1  # that is read
CHAIN_BYTES = 16
NO_CHAIN = bytes(CHAIN_BYTES)
HASH_FUNCTION = "murmur2"
NO_COMMAND = -1  # the command of an entry that a migration made
NO_LINK = 0  # of an entry before which its object has none
BODY_BYTES = 4096  # of a request that its entry keeps; of a larger one it keeps nothing

Outcome = Literal["ok", "refused", "failed", "rejected", "parked", "unavailable", "forwarded"]


class Header(msgspec.Struct, array_like=True, tag=0, frozen=True):
    """Once, at offset 0 of each journal partition: whose journal this is."""

    app: str
    app_uuid: str
    partition: int
    partitions: int
    hash_function: str = HASH_FUNCTION


class Claim(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """A node takes the partition; the record's offset is its epoch.

    `after` is the epoch that it follows, the newest that the node has seen: where another one is the newest,
    the claim is void. None, as in claims of earlier versions and in claims that only end an epoch: it counts,
    whatever lies before it. `topics` are the ids of the app's topics on Kafka, by topic: the ones that this
    journal belongs to. `seal` is the id of the secret that the node seals commands with. `sealed_from`:
    commands below this offset may bear the seal of a version without a secret; -1, as in its claims: any may.
    A claim that only ends an epoch leaves both as they are. `code`: the version of the app's code that runs
    in this epoch, so that each entry has one; empty in claims of earlier versions.
    """

    uuid: str
    node: str
    host: str = ""
    pid: int = 0
    after: int | None = None
    topics: dict[str, str] = {}
    seal: str = ""
    sealed_from: int = -1
    code: str = ""

    @property
    def says_of_seals(self) -> bool:
        """True if an owner made the claim: of this version, or of one without a secret (no host), after which
        all begins again.
        """
        return self.sealed_from >= 0 or not self.host

    @property
    def by(self) -> str:
        """The node that claimed, as messages name it."""
        return f"node {self.node}" + (f" (host {self.host}, pid {self.pid})" if self.host else "")


class CallMade(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A call that a turn made and that was answered: to which object, for what, and the place of its command.

    `offset` is -1 where a turn that ran again got the answer of its first run.
    """

    key: str
    summary: str
    partition: int
    offset: int = -1


class Entry(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The record of one turn: its effects and its reply.

    `command` is the command's offset and `command_hash` stands for its whole record; `key` the object (empty
    if the record named none); `time_ms` the turn's log time. `clear` removes values and alarms, and comes
    before everything else. `client_key` and `payload_hash` are set if the client gave a key. `summary` is for
    people. `mark` is the low watermark of the calling partition, for a call from a turn (otherwise 0).
    `changes`: those of administration and parking. `body`: that of the request, None if it has more than
    `BODY_BYTES`. `cause`: of a call from a turn, the turn that waits for it, as in the chain of callers.
    `calls`: what the turn called.
    """

    command: int
    key: str
    time_ms: int
    outcome: str
    reply: Reply
    puts: dict[str, bytes] = {}
    deletes: tuple[str, ...] = ()
    clear: bool = False
    command_hash: bytes = b""
    id: str = ""
    reply_to: str = ""
    summary: str = ""
    principal: str = ""
    client_key: str | None = None
    payload_hash: bytes = b""
    outbox: tuple[Out, ...] = ()
    alarms: tuple[AlarmChange, ...] = ()
    sockets: tuple[SocketChange, ...] = ()
    mark: int = 0
    changes: tuple[Change, ...] = ()
    body: bytes | None = b""
    cause: str = ""
    calls: tuple[CallMade, ...] = ()


class EntryRecord(msgspec.Struct, array_like=True, tag=2, gc=False, frozen=True):
    """An entry in its place. `done`, `low` and `out` are as in `NoOp`, set on a batch's last record only.

    `link`: the object's previous entry: a journal offset, or, if negative, how many records before this one;
    `NO_LINK`: there is none. None in records of version 1, which link to nothing.
    """

    epoch: int
    seq: int
    entry: Entry
    done: tuple[int, ...] = ()
    low: int = 0
    out: int = 0
    link: int | None = None

    def previous(self, offset: int) -> int | None:
        """The journal offset of the object's previous entry, of the record at `offset`; None: none."""
        link = self.link
        return None if not link else link if link > 0 else offset + link


class NoOp(msgspec.Struct, array_like=True, tag=3, gc=False, frozen=True):
    """A record without an entry: it carries a batch's completions and watermarks.

    `done`: command offsets that ended without an entry, as runs (first, how many, first, how many, …).
    `low`: the low watermark: below this command offset all is done and all output is acknowledged.
    `out`: the output watermark: the journal offset below which all output of entries is acknowledged.
    `clean`: the last record of an orderly stop.
    """

    epoch: int
    seq: int
    done: tuple[int, ...] = ()
    low: int = 0
    out: int = 0
    clean: bool = False


class Migration(msgspec.Struct, array_like=True, tag=4, frozen=True):
    """A step in the history of the app's namespaces, in its place; before the owner's first batch."""

    epoch: int
    seq: int
    step: Step


class Base(msgspec.Struct, array_like=True, tag=5, frozen=True):
    """The journal may begin at offset `start` from here on: the verified `snapshot` holds what lay below.

    It repeats what the header says, which may be gone, and the ids of the topics that the newest claim named.
    """

    epoch: int
    seq: int
    start: int
    snapshot: str
    app: str
    app_uuid: str
    partitions: int
    topics: dict[str, str] = {}


OUTSIDE = frozenset((REJECTED, FORWARDED))  # outcomes of entries that belong to the history of no object


def in_history(entry: Entry) -> bool:
    """True if the entry belongs to the history of its object: not a dead letter, nor what runs elsewhere."""
    return entry.outcome not in OUTSIDE and bool(entry.key)


LinkedRecord = EntryRecord | NoOp | Migration | Base  # what the chain links, and an epoch's seq counts
JournalRecord = Header | Claim | LinkedRecord

_PREFIX = bytes((VERSION,))
_ENTRY_HEAD = _PREFIX + b"\x98\x02"  # an array of 8, tag 2
_NO_MARKS = b"\x90\x00\x00"  # no done offsets, low 0, out 0
LAST_UNLINKED = 1  # header and claim are tagged 0 and 1, behind the version and an array's head
_hasher = blake2b(digest_size=CHAIN_BYTES).copy  # a copy costs less than making a new one
_encode = msgspec.msgpack.Encoder().encode
_unlinked: msgspec.msgpack.Decoder[Header | Claim] = msgspec.msgpack.Decoder(Header | Claim)
_linked: msgspec.msgpack.Decoder[LinkedRecord] = msgspec.msgpack.Decoder(LinkedRecord)
# what decoding raises for bytes that are not a record of perdure
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, IndexError)
decode_linked = _linked.decode  # of what lies between the version and the chain
encode_entry = msgspec.msgpack.Encoder().encode


def encode_unchained(record: Header | Claim) -> bytes:
    """The value of a header or claim."""
    return _PREFIX + _encode(record)


def encode_chained(record: LinkedRecord, chain: bytes) -> tuple[bytes, bytes]:
    """(value, new chain) of a record that follows `chain`."""
    payload = _PREFIX + _encode(record)
    new = next_chain(chain, payload)
    return payload + new, new


def encode_raw_entry(
    epoch: int,
    seq: int,
    entry: bytes,
    chain: bytes,
    done: tuple[int, ...] = (),
    low: int = 0,
    out: int = 0,
    link: int = NO_LINK,
) -> tuple[bytes, bytes]:
    """(value, new chain) of an entry record.

    epoch: that of its owner.
    seq: its number in the epoch.
    entry: bytes made by `encode_entry`.
    chain: the hash of the record before it.
    done: runs of commands that ended without an entry, of the last record of a batch.
    low, out: the watermarks of what is done and of what was let out, of the last record of a batch.
    link: the object's previous entry, as of `EntryRecord`.
    """
    # the bytes of EntryRecord(epoch, seq, entry, done, low, out, link), around an entry that has been encoded
    # and measured
    marks = _encode(done) + _encode(low) + _encode(out) if out else _NO_MARKS
    payload = b"".join((_ENTRY_HEAD, _encode(epoch), _encode(seq), entry, marks, _encode(link)))
    new = next_chain(chain, payload)
    return payload + new, new


def next_chain(chain: bytes, payload: bytes) -> bytes:
    """The chain after a record whose bytes in front of its chain are `payload`."""
    hashed = _hasher()
    hashed.update(chain)
    hashed.update(payload)
    return hashed.digest()


def chain_after_claim(chain: bytes, offset: int, value: bytes) -> bytes:
    """What the first record after a claim is chained to."""
    return next_chain(chain, offset.to_bytes(8, "big") + value)


def decode_record(value: bytes | None) -> JournalRecord:
    """The record in a journal value (its chain is not checked here).

    Raises `LogCorrupt` if the version is not known or the bytes are not a record of perdure.
    """
    if not value:
        raise LogCorrupt("an empty record, which no owner writes")
    if not OLDEST_VERSION <= value[0] <= VERSION:
        raise LogCorrupt(
            f"format version {value[0]} is not known (this version of perdure writes {VERSION}): "
            "a newer perdure wrote it; run that one"
        )
    try:
        if value[2] <= LAST_UNLINKED:
            return _unlinked.decode(value[1:])
        return decode_linked(value[1:-CHAIN_BYTES])
    except UNREADABLE as error:
        raise LogCorrupt(f"not a journal record: {error}") from error


def runs(offsets: Sequence[int], known: Sequence[int] = ()) -> tuple[int, ...]:
    """Offsets, in any order, as runs: (first, how many, first, how many, …); `known` are such runs already,
    in any order."""
    if not offsets and len(known) <= 2:
        return tuple(known)
    merged: list[int] = []
    for first, count in sorted([*each_run(known), *((offset, 1) for offset in offsets)]):
        if merged and merged[-2] + merged[-1] == first:
            merged[-1] += count
        else:
            merged += (first, count)
    return tuple(merged)


def each_run(flat: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, how many) of each of them."""
    return zip(flat[::2], flat[1::2], strict=True)


def in_runs(flat: Sequence[int]) -> list[int]:
    """The offsets that `runs` wrote, ascending."""
    return [offset for first, count in each_run(flat) for offset in range(first, first + count)]
