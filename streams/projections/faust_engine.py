"""A projection as a Faust worker, for those who run Faust: the same declaration, the same fold, exact.

The built-in engine (worker.py) needs no changelog, no group and no recovery, and is many times faster. This
one shares partitions by a consumer group, keeps rows in a Faust table with its changelog, and shows them by
Faust's web views. It works on Kafka, and needs the extra `projections`.

Laws [tests/acceptance/test_faust.py]
- Where reading begins is the position in the table, never the committed offset of the group.
- Rows of all kinds lie in one table: one RocksDB, one changelog and one order for each partition. Each row
  has the journal offset that it is made from; rows come first, the position last.
- A changelog record never replaces a row of a later offset: after SIGKILL the store is ahead of its
  changelog, and a worker that was stopped writes old rows when it wakes up.
- What is in memory holds for one generation of the group.
- What cannot be folded stops its partition, by name, and its position stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import faust
import msgspec
import rocksdict
from faust.stores import rocksdb
from faust.transport.drivers import aiokafka as driver

from perdure.objects.projection import Projection
from perdure.streams.journal.reader import START, Position
from perdure.streams.log.base import LogRecord
from perdure.streams.projections.fold import Fold, FoldGroup
from perdure.streams.projections.rows import RowKeys, decode_progress
from perdure.streams.store.base import Range

BATCH = 500  # records that are folded and written together
EVERY_S = 0.05
_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
_logger = logging.getLogger("perdure")


class _Store(rocksdb.Store):  # type: ignore[misc]  # faust ships no types
    """The store of the table: of two versions of a row it keeps the one of the later journal offset."""

    def apply_changelog_batch(self, batch: Any, to_key: Any, to_value: Any) -> None:
        newest: dict[Any, int] = {}
        kept = []
        for event in list(batch):
            message = event.message
            newest[message.tp] = max(message.offset, newest.get(message.tp, -1))
            held = self._db_for_partition(message.partition).get(message.key)
            if held is None or (message.value is not None and _unpack(held)[0] < _unpack(message.value)[0]):
                kept.append(event)
        super().apply_changelog_batch(kept, to_key, to_value)
        for place, offset in newest.items():
            self.set_persisted_offset(place, offset)


class _Table(faust.Table):  # type: ignore[misc]  # as above
    def _new_store_by_url(self, url: Any) -> Any:
        return _Store(
            url,
            self.app,
            self,
            table_name=self.name,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            options=dict(self.options or {}),
        )


class PartitionOfTable:
    """A partition of the table as the store of a fold. `offset` is the journal offset of the next write."""

    def __init__(self, table: Any, partition: int) -> None:
        self._table = table
        self._partition = partition
        self._prefix = b"%03d" % partition  # outside a stream a key may be looked up in any partition
        self.offset = 0

    @property
    def _db(self) -> Any:
        return self._table.data._db_for_partition(self._partition)

    def get(self, key: bytes) -> bytes | None:
        """See `Store.get`."""
        row = self._db.get(self._prefix + key)
        return None if row is None else _unpack(row)[1]

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """See `Store.scan`, forwards."""
        assert not reverse
        rows = self._db.iter(rocksdict.ReadOptions())
        rows.seek(self._prefix + start)
        while rows.valid() and (key := rows.key()) < self._prefix + end:
            if (value := _unpack(rows.value())[1]) is not None:
                yield key[len(self._prefix) :], value
            rows.next()

    def write(self, removed: Iterable[Range], rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        """See `Store.write`: one batch of RocksDB, one run of changelog records, in order."""
        changes: dict[bytes, bytes | None] = {}
        for start, end in removed:  # row by row: a tombstone of Kafka would have no offset to compare
            changes |= {key: None for key, _ in self.scan(start, end)}
        for key, value in rows:
            changes.pop(key, None)
            changes[key] = value
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in changes.items():
            row = _pack((self.offset, value))
            self._table.send_changelog(self._partition, self._prefix + key, row, "raw", "raw")
            batch.put(self._prefix + key, row)
        self._db.write(batch)

    def flush(self) -> None:
        """See `Store.flush`."""

    def close(self) -> None:
        """See `Store.close`."""


class _Follower:
    """The folds of the partitions that this worker has, in one generation of the group."""

    def __init__(self, projection: Projection[Any], app: Any, table: Any) -> None:
        self._projection = projection
        self._app = app
        self._table = table
        self._keys = RowKeys(projection.name, projection.version)
        self._generation: Any = None
        self._groups: dict[int, FoldGroup] = {}
        self._stores: dict[int, PartitionOfTable] = {}
        self._pending: dict[int, list[LogRecord]] = {}
        self.unwritten = 0
        self.broken: dict[int, str] = {}

    def position(self, partition: int) -> Position:
        """Where the journal of a partition is to be read from."""
        row = PartitionOfTable(self._table, partition).get(self._keys.progress)
        return START if row is None else decode_progress(row).position

    def take(self, partition: int, offset: int, value: bytes | None) -> None:
        """The next record of a partition's journal."""
        self._renew()
        group = self._group(partition)
        pending = self._pending[partition]
        following = pending[-1].offset + 1 if pending else group.position.offset
        if offset >= following and partition not in self.broken:
            pending.append(LogRecord(offset, 0, None, value))
            self.unwritten += 1

    def _renew(self) -> None:
        if self._app.consumer_generation_id != self._generation:
            self._generation = self._app.consumer_generation_id
            self.unwritten = 0
            for each in (self._groups, self._stores, self._pending, self.broken):
                each.clear()

    def _group(self, partition: int) -> FoldGroup:
        if partition not in self._groups:
            store = self._stores[partition] = PartitionOfTable(self._table, partition)
            fold = Fold(self._projection, store)
            self._groups[partition] = FoldGroup(partition, [fold], store, exclusive=False)
            self._pending[partition] = []
        return self._groups[partition]

    def write(self) -> None:
        """Fold what is pending, and write rows and positions."""
        self._renew()
        self.unwritten = 0
        for partition, pending in self._pending.items():
            if pending and partition not in self.broken:
                try:
                    self._fold(partition, pending)
                except Exception as error:  # noqa: BLE001 - one that left the agent would skip the event
                    self._break(partition, f"{type(error).__name__}: {error}")
                pending.clear()

    def _fold(self, partition: int, pending: list[LogRecord]) -> None:
        group, store = self._groups[partition], self._stores[partition]
        fold = group.folds[0]
        try:
            while group.take(each for each in pending if each.offset >= group.position.offset):
                # its function raised: once more from where it was written last, up to that entry
                group = self._groups[partition] = FoldGroup(partition, [fold], store, exclusive=False)
        finally:
            if group.folds:
                store.offset = group.position.offset
                group.write()
        if fold.stopped:
            self._break(partition, fold.progress.error)

    def _break(self, partition: int, reason: str) -> None:
        self.broken[partition] = reason
        _logger.critical("partition %d of the projection stopped: %s", partition, reason)

    def rows(self, prefix: str) -> dict[str, Any]:
        """The rows whose keys begin with `prefix`, of the partitions that this worker has."""
        merge = self._projection.merge
        shown: dict[str, Any] = {}
        decode = msgspec.msgpack.Decoder(self._projection.row_type).decode
        start = self._keys.of(prefix)
        for key, value in self._table.data._iteritems():
            held = _unpack(value)[1]
            if key[3:].startswith(start) and held is not None:
                name, row = self._keys.name_in(key[3:]), decode(held)
                shown[name] = merge(shown[name], row) if merge and name in shown else row
        return shown


def faust_app(
    projection: Projection[Any],
    *,
    app: str,
    broker: str,
    partitions: int,
    data_dir: Path,
    settings: dict[str, Any] | None = None,
) -> Any:
    """A Faust app that folds `projection`: run it as a worker, or in an ASGI app (`faust.contrib.asgi`).

    projection: what is folded.
    app: the name that the topics of the perdure app begin with.
    broker: `kafka://host:port`.
    partitions: how many partitions that app has.
    data_dir: where the table lies; it belongs to this worker alone.
    settings: further settings of `faust.App`, such as `web_port` or `table_standby_replicas`.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    source = f"{app}.journal"
    follower: _Follower

    class JournalConsumer(driver.Consumer):  # type: ignore[misc]  # faust ships no types
        async def seek_to_committed(self) -> Any:
            places = dict(await super().seek_to_committed())
            for place in self.assignment():
                if place.topic == source and place in self.app.assignor.assigned_actives():
                    offset = follower.position(place.partition).offset
                    await self._seek(place, offset)
                    places[place] = offset
            return places

    class JournalTransport(driver.Transport):  # type: ignore[misc]  # as above
        Consumer = JournalConsumer

    class FaustApp(faust.App):  # type: ignore[misc]  # as above
        def _new_transport(self) -> Any:
            return JournalTransport(self.conf.broker_consumer, self)

    chosen: dict[str, Any] = {
        "broker": broker,
        "store": "rocksdb://",
        "Table": _Table,
        "datadir": str(data_dir),
        "topic_partitions": partitions,
        "topic_disable_leader": True,
        "table_standby_replicas": 0,
        "consumer_auto_offset_reset": "earliest",
        "broker_session_timeout": 6.0,  # for so long a SIGKILL stalls its partitions
        "broker_heartbeat_interval": 1.0,
        "stream_recovery_delay": 0.0,
        "stream_wait_empty": False,
        "producer_acks": -1,
        "web_bind": "127.0.0.1",
        "web_host": "127.0.0.1",
    }
    made: Any = FaustApp(f"{app}-{projection.name}-v{projection.version}", **{**chosen, **(settings or {})})
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    journal = made.topic(source, **raw)
    memory = {"block_cache_size": 32 << 20, "write_buffer_size": 16 << 20}  # of each partition
    table = made.Table(
        "rows", default=bytes, key_type=bytes, value_type=bytes, partitions=partitions, options=memory
    )
    follower = _Follower(projection, made, table)
    _connect(made, journal, follower)
    return made


def _connect(made: Any, journal: Any, follower: _Follower) -> None:
    """Give a Faust app the agent that folds, and its web views."""

    async def follow(stream: Any) -> None:
        async for event in stream.events():
            follower.take(event.message.partition, event.message.offset, event.message.value)
            if follower.unwritten >= BATCH:
                follower.write()

    async def flush() -> None:
        if follower.unwritten and not made.rebalancing and not made.in_recovery:
            follower.write()

    async def status(web: Any, request: Any) -> Any:
        stale = bool(follower.broken) or made.in_recovery
        positions = {
            str(place.partition): follower.position(place.partition).offset
            for place in made.assignor.assigned_actives()
            if place.topic == journal.get_topic_name()
        }
        answer = {"positions": positions, "broken": follower.broken, "recovering": made.in_recovery}
        return web.json(answer, status=503 if stale else 200)

    async def rows(web: Any, request: Any) -> Any:
        shown = follower.rows(request.query.get("prefix", ""))
        return web.json(
            {"stale": made.in_recovery or bool(follower.broken), "rows": msgspec.to_builtins(shown)}
        )

    made.agent(journal, concurrency=1)(follow)
    made.timer(EVERY_S)(flush)
    made.page("/status")(status)
    made.page("/rows")(rows)
