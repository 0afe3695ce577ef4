"""One partition of the new log, as it is written: header, claim, migrations, what was copied, and its end.

Law: the records are those that an owner could have written, so that every reader of journals reads them: the
next owner, checks, and helpers of a rebuild. [test_rescale.py, with `perdure verify`]
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from perdure.schemas.commands import NOBODY
from perdure.schemas.errors import ConfigError
from perdure.schemas.journal import (
    NO_LINK,
    Claim,
    Entry,
    Header,
    LinkedRecord,
    Migration,
    NoOp,
    chain_after_claim,
    encode_chained,
    encode_entry,
    encode_raw_entry,
    encode_unchained,
    in_history,
)
from perdure.schemas.migrations import Step
from perdure.schemas.replies import OK, Reply
from perdure.streams import failpoints
from perdure.streams.journal.reader import START, Position
from perdure.streams.log.base import Log, Record, Topic, durable, size_bytes

BATCH_BYTES = 1 << 20


class NewJournal:
    """The journal of a new partition. Call `begin`, then `add` for each entry, then `end`."""

    def __init__(self, log: Log, partition: int) -> None:
        self._log = log
        self._partition = partition
        self._writer = log.writer(partition, self)
        self._position = START
        self._batch: list[Record] = []
        self._bytes = 0
        self._appended: asyncio.Future[int] | None = None
        self.commands = 0  # how many were appended
        self._newest: dict[str, int] = {}  # the offset of each object's newest entry

    # as the source of its writer

    def fill(self, max_bytes: int) -> Sequence[Record]:
        """See `WriterSource`: the batch that was requested, once."""
        batch, self._batch, self._bytes = self._batch, [], 0
        return batch

    def acked(self, first_offset: int) -> None:
        """See `WriterSource`."""
        if self._appended is not None and not self._appended.done():
            self._appended.set_result(first_offset)

    def failed(self, error: BaseException) -> None:
        """See `WriterSource`."""
        if self._appended is not None and not self._appended.done():
            self._appended.set_exception(error)

    # writing

    async def begin(self, header: Header, claim: Claim, steps: Sequence[Step]) -> None:
        """Write the header, the claim and the migrations that have run. Raises `OutcomeUnknown`."""
        value = encode_unchained(claim)
        self._batch = [Record(None, encode_unchained(header)), Record(None, value)]
        self._position = Position(2, 1, 0, chain_after_claim(START.chain, 1, value))
        for step in steps:
            self._link(Migration(1, self._position.seq, step))
        await self._append()

    async def command(self, record: Record) -> int:
        """Append a record to the partition's commands; its offset.

        Raises `OutcomeUnknown`, `Unavailable`, and `ConfigError` if another client writes there.
        """
        receipt = self._log.append(Topic.COMMANDS, self._partition, record)
        await durable(receipt)
        if receipt.offset != self.commands:
            raise ConfigError(
                f"commands partition {self._partition} of the new log has a record of another client at offset "
                f"{self.commands}: stop the clients, and run this again"
            )
        self.commands += 1
        return receipt.offset

    async def mark(self, summary: str, time_ms: int) -> None:
        """Write a command and its entry that carry the old log's time, by which what follows is filed."""
        offset = await self.command(Record(None, None))
        await self.add(Entry(offset, "", time_ms, OK, Reply(OK, 204), reply_to=NOBODY, summary=summary))

    async def add(self, entry: Entry) -> None:
        """Write an entry, with others in a batch. Raises `OutcomeUnknown`."""
        encoded = encode_entry(entry)
        if self._batch and self._bytes + len(encoded) > BATCH_BYTES:
            await self._append()
        position = self._position
        before = self._newest.get(entry.key, NO_LINK)
        value, chain = encode_raw_entry(position.epoch, position.seq, encoded, position.chain, link=before)
        if in_history(entry):
            self._newest[entry.key] = position.offset
        self._put(value, chain, entry.key.encode())

    async def end(self) -> None:
        """Write that all commands are done and their output has arrived, as after an orderly stop."""
        self._link(NoOp(1, self._position.seq, low=self.commands))
        await self._append()
        batch_end = self._position.offset
        self._link(NoOp(1, self._position.seq, low=self.commands, out=batch_end, clean=True))
        await self._append()
        self._writer.close()

    def _link(self, record: LinkedRecord) -> None:
        self._put(*encode_chained(record, self._position.chain), None)

    def _put(self, value: bytes, link: bytes, key: bytes | None) -> None:
        record = Record(key, value)
        self._batch.append(record)
        self._bytes += size_bytes(record)
        position = self._position
        self._position = position._replace(offset=position.offset + 1, seq=position.seq + 1, chain=link)

    async def _append(self) -> None:
        self._appended = asyncio.get_running_loop().create_future()
        due = self._position.offset - len(self._batch)
        self._writer.request()
        first = await self._appended
        assert first == due, f"a record of another writer lies before offset {first} of a new journal"
        failpoints.hit("rescale.appended")
