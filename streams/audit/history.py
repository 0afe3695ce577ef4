"""The history of one object: its turns, newest first, by the links from entry to entry.

`walk` yields entries; `history` makes a page of turns of them, each with its values before and after. Where
entries of earlier versions of perdure do not link, the walk scans the journal below, and says from where on.

Laws [test_history.py]
- Every entry of the object that counts is yielded once, the newest first, and no other.
- A value before a turn is what the object's older entries say. If they were trimmed, or lie deeper than
  `DEEP` entries below the page, the name is in `unknown`, and nothing is made up.
- A walk along links reads what it yields; only neighbours in the journal are read together (`WINDOW`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec

from perdure.schemas.journal import Claim, Entry, EntryRecord, JournalRecord, decode_record, in_history
from perdure.schemas.json_preview import json_preview
from perdure.schemas.masking import mask_value
from perdure.streams.audit.decoding import entry_record
from perdure.streams.audit.records import AuditRecord, stored_value
from perdure.streams.audit.voids import Voids
from perdure.streams.log.base import LogRecord, Readable, Topic

DEEP = 2_000  # entries that are read below a page to know the values before it
WINDOW, NEAR = 256, 128  # records read together, where the last two entries lay so near


class ObjectLinks(NamedTuple):
    """The beginning of an object's history, as the state of its partition says.

    newest: the journal offset of its newest entry that links; 0: there is none.
    linked_from: the first entry of the partition that links; None: there is none.
    applied: the journal offset up to which this holds: behind it lie records that are looked through.
    """

    newest: int
    linked_from: int | None
    applied: int


class LinkedEntry(NamedTuple):
    """An entry of the walk: its journal offset, its record, and its stamp in ms."""

    offset: int
    record: EntryRecord
    stamp_ms: int


class Walk:
    """A walk through the entries of one object, newest first: iterate over `entries`.

    log: what is read.
    partition, key: the object's.
    links: where it begins.
    below: only entries below this journal offset; None: all.

    `scanned_below`: the walk left the links, and scanned the journal below this offset; None: it did not.
    `trimmed_below`: older entries were trimmed: the journal begins here; None: there are none that were.
    """

    def __init__(
        self, log: Readable, partition: int, key: str, links: ObjectLinks, below: int | None = None
    ) -> None:
        self._log, self._partition, self._key, self._links = log, partition, key, links
        self._below = below
        self._near: dict[int, LogRecord] = {}
        self.scanned_below: int | None = None
        self.trimmed_below: int | None = None

    async def entries(self) -> AsyncIterator[LinkedEntry]:
        """The entries, the newest first."""
        start, end = await self._log.bounds(Topic.JOURNAL, self._partition)
        below = end if self._below is None else min(self._below, end)
        links = self._links
        floor = max(links.applied, start)
        at, last = links.newest, below
        if self._below is not None and start < below and await self._is_mine(below - 1):
            at = below - 1  # the cursor of a page: no need to go there entry by entry
        elif floor < below:
            for offset in reversed(await self._scan(floor, below)):
                entry = await self._read(offset, offset)
                yield entry
                last = offset
                at = links.newest if entry.record.link is None else entry.record.previous(offset) or 0
        if floor > start or at >= start:
            while at:
                if at < start:
                    self.trimmed_below = start
                    return
                entry = await self._read(at, last)
                if at < below:
                    yield entry
                last, at = at, entry.record.previous(at) or 0
            top = min(floor if links.linked_from is None else links.linked_from, below)
            for offset in reversed(await self._scan(start, top)):
                self.scanned_below = top
                yield await self._read(offset, offset)
        if start > 0:
            self.trimmed_below = start

    async def _is_mine(self, offset: int) -> bool:
        """True if the record at an offset is an entry in the history of the object."""
        async for chunk in self._log.read(Topic.JOURNAL, self._partition, offset, offset + 1):
            for each in chunk:
                return self._mine(decode_record(each.value))
        return False

    def _mine(self, record: JournalRecord) -> bool:
        """True if the record is an entry in the history of the object."""
        return isinstance(record, EntryRecord) and record.entry.key == self._key and in_history(record.entry)

    async def code_of(self, epoch: int) -> str:
        """The version of the code in an epoch; empty if its claim does not say, or was trimmed."""
        if epoch < (await self._log.bounds(Topic.JOURNAL, self._partition)).start:
            return ""
        async for chunk in self._log.read(Topic.JOURNAL, self._partition, epoch, epoch + 1):
            for each in chunk:
                claim = decode_record(each.value)
                return claim.code if isinstance(claim, Claim) else ""
        return ""

    async def _read(self, offset: int, last: int) -> LinkedEntry:
        """The entry at an offset; `last`: that of the entry before it in the walk."""
        record = self._near.pop(offset, None)
        if record is None:
            near = 0 < last - offset <= NEAR
            first = max(offset - WINDOW + 1, (await self._log.bounds(Topic.JOURNAL, self._partition)).start)
            self._near.clear()
            key = self._key.encode()
            chunks = self._log.read(Topic.JOURNAL, self._partition, first if near else offset, offset + 1)
            async for chunk in chunks:
                self._near.update({each.offset: each for each in chunk if each.key == key})
            record = self._near.pop(offset)
        decoded = decode_record(record.value)
        assert isinstance(decoded, EntryRecord), f"a link leads to offset {offset}, which is not an entry"
        return LinkedEntry(offset, decoded, record.time_ms)

    async def _scan(self, start: int, end: int) -> list[int]:
        """The offsets of the object's entries in a part of the journal, by reading all of it."""
        offsets: list[int] = []
        key, voids = self._key.encode(), Voids()
        async for chunk in self._log.read(Topic.JOURNAL, self._partition, start, end):
            for each in chunk:
                if each.key != key and self._log.exclusive:
                    continue
                record = decode_record(each.value)
                void = not self._log.exclusive and voids.is_void(each.offset, record)
                if not void and self._mine(record):
                    offsets.append(each.offset)
        return offsets


class HistoryTurn(msgspec.Struct, frozen=True):
    """A turn in the history of an object.

    record: the entry, decoded.
    before, after: the values that the turn changed, as stored, by name; a name that is missing in one of them
        had no value.
    unknown: the names whose value before the turn is not known.
    code: the version of the app's code; empty: not known.
    link: the journal offset of the object's previous entry; None: there is none that it links to.
    """

    record: AuditRecord
    before: dict[str, bytes]
    after: dict[str, bytes]
    unknown: tuple[str, ...]
    code: str
    link: int | None

    def as_json(self) -> dict[str, Any]:
        """The turn as types of JSON; secrets are masked."""
        fields = self.record.as_json()
        for name in ("topic", "type", "puts", "deletes", "void"):
            fields.pop(name, None)
        journal = f"{fields.pop('partition')}:{fields.pop('offset')}"
        entry = self.record.entry
        calls = [
            {"object": each.key, "summary": each.summary, "command": _place(each.partition, each.offset)}
            for each in (entry.calls if entry is not None else ())
        ]
        changes = {
            name: {
                **({} if name not in self.before else {"before": _shown(name, self.before[name])}),
                **({} if name not in self.after else {"after": _shown(name, self.after[name])}),
                **({"before_unknown": True} if name in self.unknown else {}),
            }
            for name in sorted({*self.before, *self.after, *self.unknown})
        }
        return {
            "journal": journal,
            **fields,
            "changes": changes,
            **({"calls": calls} if calls else {}),
            **({"code": self.code} if self.code else {}),
        }


def _place(partition: int, offset: int) -> str | None:
    return f"{partition}:{offset}" if offset >= 0 else None


def _shown(name: str, encoded: bytes) -> Any:
    return json_preview(mask_value(stored_value(encoded), name))


class ObjectHistory(NamedTuple):
    """A page of the history of an object, the newest turn first.

    key: the object.
    turns: the turns.
    below: the journal offset below which the next page begins; None: this is the last one.
    scanned_below, trimmed_below: as of `Walk`.
    """

    key: str
    turns: list[HistoryTurn]
    below: int | None
    scanned_below: int | None
    trimmed_below: int | None

    def as_json(self) -> dict[str, Any]:
        """The page as types of JSON."""
        return {
            "object": self.key,
            "turns": [each.as_json() for each in self.turns],
            "cursor": None if self.below is None else str(self.below),
            "scanned_below": self.scanned_below,
            "trimmed_below": self.trimmed_below,
        }


async def history(walk: Walk, partition: int, key: str, limit: int = 100) -> ObjectHistory:
    """A page of the history that `walk` goes through.

    walk: from `ObjectStates.walk`.
    partition, key: the object's.
    limit: turns on the page.
    """
    page: list[LinkedEntry] = []
    before: list[OlderValues] = []
    open_: list[OlderValues] = []
    below: int | None = None
    deeper = 0
    async for entry in walk.entries():
        for each in open_:
            each.see(entry.record.entry)
        open_ = [each for each in open_ if each.open]
        if len(page) < limit:
            page.append(entry)
            before.append(OlderValues())
            before[-1].look_below(entry.record.entry)
            open_.append(before[-1])
            continue
        if below is None:
            below = entry.offset + 1
        deeper += 1
        if not open_ or deeper >= DEEP:
            break
    else:
        if walk.trimmed_below is None:
            for each in open_:
                each.see_the_beginning()
    codes = _Codes(walk)
    turns = [await _turn(partition, entry, each, codes) for entry, each in zip(page, before, strict=True)]
    return ObjectHistory(key, turns, below, walk.scanned_below, walk.trimmed_below)


def changed_names(entry: Entry) -> set[str]:
    """The names of the values that a turn put or deleted; without perdure's own hidden ones."""
    return {name for name in (*entry.puts, *entry.deletes) if not name.startswith("\0")}


class OlderValues:
    """The values that names had below some entries of an object, as its older entries say, newest first.

    `values`: those known so far; None: there was no value. A turn that removed everything changed every name.
    """

    def __init__(self) -> None:
        self.values: dict[str, bytes | None] = {}
        self._unknown: set[str] = set()
        self._all = False

    def look_below(self, entry: Entry) -> None:
        """Look for the values, below this entry too, of the names that it changed."""
        self._unknown |= changed_names(entry)
        self._all = self._all or entry.clear

    @property
    def open(self) -> bool:
        """True if some value is not known yet."""
        return self._all or bool(self._unknown)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The names that are not known; `*`: and perhaps others."""
        return (*sorted(self._unknown), *(("*",) if self._all else ()))

    def see(self, older: Entry) -> None:
        """The next older entry of the object."""
        changed: dict[str, bytes | None] = {**dict.fromkeys(older.deletes), **older.puts}
        for name, value in changed.items():
            if name in self._unknown or (self._all and name not in self.values and not name.startswith("\0")):
                self._unknown.discard(name)
                self.values[name] = value
        if older.clear:
            self.see_the_beginning()

    def see_the_beginning(self) -> None:
        """There is nothing older: what is not known did not exist."""
        self.values.update(dict.fromkeys(self._unknown))
        self._unknown.clear()
        self._all = False


async def _turn(partition: int, entry: LinkedEntry, before: OlderValues, codes: _Codes) -> HistoryTurn:
    record = entry.record
    return HistoryTurn(
        entry_record(partition, entry.offset, record),
        {name: value for name, value in before.values.items() if value is not None},
        {name: value for name, value in record.entry.puts.items() if not name.startswith("\0")},
        before.unknown,
        await codes.of(record.epoch),
        record.previous(entry.offset),
    )


class _Codes:
    """The versions of the app's code, by epoch: read from its claim when first asked for."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._known: dict[int, str] = {}

    async def of(self, epoch: int) -> str:
        if epoch not in self._known:
            self._known[epoch] = await self._walk.code_of(epoch)
        return self._known[epoch]
