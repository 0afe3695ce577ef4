"""The record of what happened, as administration shows it: the log, histories, states of the past.

    GET /admin/log                              the last records, filtered; `cursor` leads to older ones
    GET /admin/log/events                       records as they are appended, as server-sent events
    GET /admin/history/{namespace}/{name}       an object's turns, the newest first
    GET /admin/state/{namespace}/{name}         an object's values `at` a time or a journal offset
    GET /admin/state/{namespace}                all objects of a namespace, at a time
    GET /admin/diff/{namespace}[/{name}]        what differs between `from` and `to`

Laws [test_admin_log.py]
- A page is bounded: by its number of records, and by how many of the journal are looked at.
- At most `FOLLOWERS` clients follow the log at once.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from perdure.api.admin.views import Query, limit_of
from perdure.api.pages import JSON_NOW, PageRequest, known_only, nothing_behind, only
from perdure.api.problems import Problem
from perdure.api.streaming import Streamed
from perdure.schemas.config import record_rules
from perdure.schemas.config_model import Config
from perdure.schemas.errors import MalformedCommand, Overloaded
from perdure.schemas.json_preview import json_preview
from perdure.schemas.keys import object_key
from perdure.streams.audit.query import parse_query, parse_time
from perdure.streams.audit.reader import AuditLog, Ends
from perdure.streams.audit.records import shown_values
from perdure.streams.audit.states import diff, fold_to, object_state, objects_in, offset_at
from perdure.streams.log.base import Topic
from perdure.streams.owner.owner import Owner
from perdure.streams.state.tables import Tables
from perdure.streams.store.rocks import RocksStore

FOLLOWERS = 32
HEARTBEAT = 60  # rounds without a record, after which a comment shows that the stream lives
EVENTS = ((b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"))
_PAGED = frozenset(("limit", "cursor"))
_OFFSET_CHARS = 18


class AuditPages:
    """The pages that read the log of a running node."""

    def __init__(self, log: AuditLog, clock_ms: Callable[[], int]) -> None:
        self._log = log
        self._clock_ms = clock_ms
        self._followers = 0

    @classmethod
    def of(cls, owners: Sequence[Owner], config: Config) -> AuditPages:
        """The pages of a node with these owners."""
        log = owners[0].log
        tables: Callable[[int], Tables] = lambda partition: owners[partition].tables
        return cls(AuditLog(log, record_rules(config), tables), owners[0].ports.transport.clock_ms)

    async def page(self, request: PageRequest) -> Problem:
        """The response to a request for one of them. Raises `Refused` or a `PerdureError`."""
        only(request, "GET")
        if request.parts == ("log", "events"):
            return 200, EVENTS, self._events(request.query)
        content = await self.answer(request.parts, request.query)
        if content is None:
            raise nothing_behind("admin", request)
        return 200, JSON_NOW, json.dumps(content, ensure_ascii=False).encode()

    async def answer(self, parts: tuple[str, ...], query: Query) -> Any:
        """The content of a page, as types of JSON; None if there is no such page."""
        match parts:
            case ("log",):
                return await self._last(query)
            case ("history", namespace, name):
                known_only(query, _PAGED)
                key = object_key(namespace, name)
                below = query.get("cursor")
                page = await self._log.history(
                    key, None if below is None else journal_offset(below), limit_of(query)
                )
                return page.as_json()
            case ("state", namespace, name):
                known_only(query, frozenset(("at",)))
                key = object_key(namespace, name)
                at = await self._place(self._log.partition_of(key), query.get("at", "now"))
                return (await object_state(self._log, key, at)).as_json()
            case ("state", namespace):
                known_only(query, frozenset(("at", "limit", "prefix")))
                return await self._namespace(namespace, query)
            case ("diff", namespace, *name) if len(name) < 2:
                known_only(query, frozenset(("from", "to", "limit")))
                return await self._diff(namespace, name[0] if name else "", query)
        return None

    async def _last(self, query: Query) -> dict[str, Any]:
        wanted = {name: value for name, value in query.items() if name not in _PAGED}
        selection = parse_query(wanted, self._log.partitions, self._clock_ms())
        ends = _ends_in(query["cursor"]) if query.get("cursor") else None
        page = await self._log.page(selection, limit_of(query), ends)
        cursor = None if page.ends is None else ",".join(f"{t}:{p}:{o}" for (t, p), o in page.ends.items())
        return {"records": [each.as_json() for each in page.records], "cursor": cursor}

    def _events(self, query: Query) -> Streamed:
        wanted = {name: value for name, value in query.items() if name != "after"}
        selection = parse_query(wanted, self._log.partitions, self._clock_ms())
        after = _ends_in(query["after"]) if query.get("after") else None
        if self._followers >= FOLLOWERS:
            raise Overloaded(f"{FOLLOWERS} clients follow the log already: close one, or ask again")
        self._followers += 1

        async def events() -> AsyncGenerator[bytes, None]:
            yield b": following\n\n"
            idle = 0
            async with aclosing(self._log.follow(selection, after)) as chunks:
                async for chunk in chunks:
                    idle = 0 if chunk else idle + 1
                    if idle >= HEARTBEAT:
                        idle = 0
                        yield b": nothing new\n\n"
                    for record in chunk:
                        text = json.dumps(record.as_json(), ensure_ascii=False)
                        yield f"id: {record.place}\nevent: {record.type}\ndata: {text}\n\n".encode()

        async def counted() -> AsyncGenerator[bytes, None]:
            try:
                async with aclosing(events()) as each_of:
                    async for each in each_of:
                        yield each
            finally:
                self._followers -= 1

        return Streamed.of(counted())

    async def _place(self, partition: int, text: str) -> int:
        """The journal offset that a text means: `offset:17`, or a time as of `parse_time`."""
        if text.startswith("offset:"):
            return journal_offset(text.removeprefix("offset:"))
        if text == "now":
            return (await self._log.bounds(Topic.JOURNAL, partition)).end
        return await offset_at(self._log, partition, parse_time(text, self._clock_ms()))

    async def _namespace(self, namespace: str, query: Query) -> dict[str, Any]:
        limit, at, objects = limit_of(query), query.get("at", "now"), []
        folder = Path(tempfile.mkdtemp(prefix="perdure-state-"))
        try:
            for partition in range(self._log.partitions):
                offset = await self._place(partition, at)
                with closing(RocksStore(folder / str(partition))) as store:
                    tables = await fold_to(self._log, partition, offset, store)
                    tables.write_all()
                    for key, values in objects_in(tables, namespace, query.get("prefix", "")):
                        objects.append({"object": key, "values": json_preview(shown_values(values))})
                        if len(objects) == limit:
                            return {"objects": objects, "complete": False}
                        await asyncio.sleep(0)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return {"objects": objects, "complete": True}

    async def _diff(self, namespace: str, name: str, query: Query) -> dict[str, Any]:
        limit, key = limit_of(query), object_key(namespace, name) if name else ""
        if "from" not in query:
            raise MalformedCommand("diff needs `from`: a time, or offset:N")
        changes: list[dict[str, Any]] = []
        for partition in [self._log.partition_of(key)] if key else range(self._log.partitions):
            start = await self._place(partition, query["from"])
            end = await self._place(partition, query.get("to", "now"))
            async with aclosing(
                diff(self._log, partition, min(start, end), end, namespace, key)
            ) as changes_of:
                async for each in changes_of:
                    changes.append(each.as_json())
                    if len(changes) == limit:
                        return {"objects": changes, "complete": False}
        return {"objects": changes, "complete": True}


def journal_offset(text: str) -> int:
    """The journal offset that a text is. Raises `MalformedCommand`."""
    if not (text.isascii() and text.isdigit() and len(text) <= _OFFSET_CHARS):
        raise MalformedCommand(f"{text[:40]!r} is not a journal offset")
    return int(text)


def _ends_in(text: str) -> Ends:
    """Places and offsets as a cursor names them: `journal:0:17,journal:1:5`."""
    ends: dict[tuple[Topic, int], int] = {}
    for each in text.split(","):
        topic, _, place = each.partition(":")
        partition, _, offset = place.partition(":")
        if topic not in set(Topic) or not partition.isdecimal() or len(partition) > 5:
            raise MalformedCommand(f"{each[:40]!r} is not a place such as journal:0:17")
        ends[Topic(topic), int(partition)] = journal_offset(offset)
    return ends


async def audit_answer(log: AuditLog, path: str, query: Query) -> Any:
    """What `/admin/{path}` would answer, from a log that is open here. Raises as `AuditPages.page`."""
    parts = tuple(unquote(each) for each in path.split("/"))
    return await AuditPages(log, lambda: int(time.time() * 1000)).answer(parts, query)
