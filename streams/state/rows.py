"""Where the rows of each kind lie in the store, and the contents of the meta row and of spent client keys.

A row's key begins with a letter for its kind and the number of its partition, so that each kind of a
partition is one range.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from perdure.schemas.errors import StoreCorrupt
from perdure.schemas.journal import Base
from perdure.schemas.migrations import Step
from perdure.schemas.replies import Reply
from perdure.streams.journal.reader import NO_EPOCH
from perdure.streams.state.memtables import after
from perdure.streams.store.base import Range

FORMAT = 3  # 1 had no rows of claims; 2 filed spent client keys by log time, and by the hour
HOUR_MS = 3_600_000
WINDOW_HOURS = 25  # 24, and one for clocks that were wrong: each jump ages the keys by `STEP_MS` at most
WINDOW_MS = WINDOW_HOURS * HOUR_MS
BUCKET_MS = WINDOW_MS // 2  # see spent_keys.py
BY_KEY = (b"v", b"a", b"w", b"n")  # tables whose rows begin with the object's key
STEP_MS = 60_000  # the most that the age grows from one command with an entry to the next


def ranges_of(partition: int) -> list[Range]:
    """Where all rows of a partition lie, a range (start, end) for each kind; kinds that do not exist yet
    included."""
    number, behind = partition.to_bytes(2, "big"), (partition + 1).to_bytes(2, "big")
    kinds = (bytes((letter,)) for letter in range(ord("a"), ord("z") + 1))
    return [(kind + number, kind + behind) for kind in kinds]


def buckets_at(age_ms: int) -> range:
    """The buckets in which client keys lie that are not forgotten at this age, the newest first."""
    newest = age_ms // BUCKET_MS
    return range(newest, max(newest - WINDOW_MS // BUCKET_MS, 0) - 1, -1)


def of_namespace(number: bytes, namespace: str, age_ms: int) -> Iterator[Range]:
    """Where the rows of a namespace's objects lie in partition `number`, but for the alarms by time."""
    prefix = namespace.encode() + b"/"
    for table in BY_KEY:
        yield table + number + prefix, after(table + number + prefix)
    for bucket in buckets_at(age_ms):
        start = b"k" + number + bucket.to_bytes(4, "big") + prefix
        yield start, after(start)


class Meta(msgspec.Struct, array_like=True):
    """The meta row of a partition: the position in the journal that its rows are the fold of."""

    format: int = FORMAT
    app_uuid: str = ""
    partitions: int = 0
    offset: int = 0
    epoch: int = NO_EPOCH
    seq: int = 0
    chain: bytes = b""
    watermark: int = 0
    low: int = 0
    clock_ms: int = 0
    clean: bool = False
    out: int = 0
    out_epoch: int = NO_EPOCH
    out_seq: int = 0
    out_chain: bytes = b""
    latest: int = -1  # the highest offset of a command that has an entry; `clock_ms` is its log time
    age_ms: int = 0  # what the client keys are filed by
    seal: str = ""  # of the newest claim, as the next
    sealed_from: int = -1


class SpentKey(msgspec.Struct, array_like=True, frozen=True):
    """A client key that was used: for which command, its reply, and the age of the tables then."""

    age_ms: int
    payload_hash: bytes
    command: int
    reply: Reply


encode_row = msgspec.msgpack.Encoder().encode
_decode_meta = msgspec.msgpack.Decoder(Meta).decode
decode_spent = msgspec.msgpack.Decoder(SpentKey).decode
decode_base = msgspec.msgpack.Decoder(Base).decode
decode_steps = msgspec.msgpack.Decoder(tuple[Step, ...]).decode


def decode_meta(data: bytes, partition: int) -> Meta:
    """The meta row. Raises `StoreCorrupt` if it is damaged or of another format."""
    try:
        meta = _decode_meta(data)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(
            f"the state's meta row of partition {partition} is damaged: {error}. "
            "Run `perdure state rebuild`: the log has everything"
        ) from error
    if meta.format != FORMAT:
        raise StoreCorrupt(
            f"the state has format {meta.format}, this version of perdure reads {FORMAT}: run `perdure state rebuild`"
        )
    return meta


def is_older(data: bytes) -> bool:
    """True if an earlier perdure wrote this meta row, in a format that is no longer read."""
    try:
        return _decode_meta(data).format < FORMAT
    except msgspec.DecodeError:
        return False
