"""Projections as administration shows them: how far each is, and its rows.

    GET /admin/projections, /admin/projections/{name}, /admin/projections/{name}/rows

Law: rows that may be older than the journal are said to be stale, and why. [test_projections.py]
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from perdure.api.admin.views import Query, limit_of
from perdure.objects.projection import Projection
from perdure.schemas.config import Config
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.json_preview import json_preview
from perdure.streams.log.base import Topic
from perdure.streams.owner.owner import Owner
from perdure.streams.projections.reading import (
    ABANDONED,
    CATCHING_UP,
    LIVE,
    NEW,
    STOPPED,
    PartitionProgress,
    ProjectionReading,
)
from perdure.streams.projections.rows import FOLDER

_LOOK_S, _WAIT_MAX_S = 0.05, 60.0
_WORST = (STOPPED, NEW, ABANDONED, CATCHING_UP, LIVE)  # the first that a partition has is that of all


class ProjectionViews:
    """The views of an app's projections on a node.

    owners: of all partitions, in order; their log says where the journals end.
    declared: the app's projections.
    config: it names the data directory.
    """

    def __init__(
        self, owners: Sequence[Owner], declared: Mapping[str, Projection[Any]], config: Config
    ) -> None:
        self._owners = owners
        self._declared = declared
        self._config = config
        self._reading: ProjectionReading | None = None
        self._one = asyncio.Lock()  # a reading is used by one thread at a time

    async def _read(self, read: Any, *given: Any) -> Any:
        """What `read(reading, *given)` returns, in a thread: it may open and scan files."""
        async with self._one:
            if self._reading is None:
                folder = self._config.data_dir / FOLDER / self._owners[0].log.generation
                self._reading = ProjectionReading(folder, len(self._owners))
            return await asyncio.to_thread(read, self._reading, *given)

    async def _ends(self) -> list[int]:
        return [(await each.log.bounds(Topic.JOURNAL, each.partition)).end for each in self._owners]

    async def listed(self) -> dict[str, Any]:
        """All projections and their versions."""
        ends, versions = await self._ends(), await self._read(ProjectionReading.versions)
        rows = []
        for name in sorted({*versions, *self._declared}):
            declared = self._declared.get(name)
            there = versions.get(name, {})
            if declared is not None and declared.version not in there:
                there = {**there, declared.version: []}
            for version in sorted(there, reverse=True):
                rows.append(_summary(name, version, there[version], ends, declared))
        return {"projections": rows}

    async def one(self, name: str) -> dict[str, Any] | None:
        """The declared version of a projection, partition by partition; None if the app has none so named."""
        declared = self._declared.get(name)
        if declared is None:
            return None
        ends, versions = await self._ends(), await self._read(ProjectionReading.versions)
        parts = versions.get(name, {}).get(declared.version, [])
        return _summary(name, declared.version, parts, ends, declared)

    async def rows(self, name: str, query: Query) -> dict[str, Any] | None:
        """A page of the rows of a projection; None if the app has none so named."""
        declared = self._declared.get(name)
        if declared is None:
            return None
        limit, prefix, start = limit_of(query), query.get("prefix", ""), query.get("cursor", "")
        ends, until_s = await self._ends(), time.monotonic() + _wait_of(query)
        while True:
            versions = await self._read(ProjectionReading.versions)
            parts = versions.get(name, {}).get(declared.version, [])
            if _reached(parts, ends) or time.monotonic() >= until_s:
                break
            await asyncio.sleep(_LOOK_S)
        shown = await self._read(
            lambda reading: reading.rows(declared, prefix=prefix, start=start, limit=limit)
        )
        summary = _summary(name, shown.version, versions.get(name, {}).get(shown.version, []), ends, declared)
        reason = summary["state"]
        if shown.version != declared.version:
            reason = f"version {declared.version} is not complete, these are of version {shown.version}"
        return {
            "version": shown.version,
            "stale": reason != LIVE,
            "reason": "" if reason == LIVE else reason,
            "behind": summary["behind"],
            "rows": [
                {"key": each.key, "row": json_preview(msgspec.to_builtins(each.row))}
                | ({} if each.partition is None else {"partition": each.partition})
                for each in shown.rows
            ],
            "cursor": shown.cursor,
        }

    async def exposition(self) -> bytes:
        """The projections in Prometheus' text format; empty if the app has none."""
        if not self._declared:
            return b""
        rows = [each for each in (await self.listed())["projections"] if each["declared"]]
        lines = []
        for name, kind, text, read in METRICS:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            lines += [f'{name}{{projection="{each["name"]}"}} {float(read(each))}' for each in rows]
        return ("\n".join(lines) + "\n").encode()


METRICS: Sequence[tuple[str, str, str, Callable[[dict[str, Any]], float]]] = (
    ("perdure_projection_behind", "gauge", "Journal records not folded yet", lambda each: each["behind"]),
    ("perdure_projection_live", "gauge", "1 if no rows are stale", lambda each: each["state"] == LIVE),
    ("perdure_projection_entries_total", "counter", "Entries folded", lambda each: each["entries"]),
    ("perdure_projection_skipped_total", "counter", "Entries left out", lambda each: each["skipped"]),
)


def _wait_of(query: Query) -> float:
    text = query.get("wait", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise MalformedCommand(f"wait={text[:20]} is not a number of seconds")
    return min(float(text), _WAIT_MAX_S)


def _reached(parts: Sequence[PartitionProgress], ends: Sequence[int]) -> bool:
    """True if the rows hold all that was on the journal when the request was made."""
    return len(parts) == len(ends) and all(
        each.progress.offset >= ends[each.partition] and each.state in (LIVE, STOPPED) for each in parts
    )


def _summary(
    name: str,
    version: int,
    parts: Sequence[PartitionProgress],
    ends: Sequence[int],
    declared: Projection[Any] | None,
) -> dict[str, Any]:
    states = {each.state for each in parts} or {NEW}
    rows = [
        {
            "partition": each.partition,
            "state": each.state,
            "offset": each.progress.offset,
            "behind": max(ends[each.partition] - each.progress.offset, 0),
            "entries": each.progress.entries,
            "time_ms": each.progress.time_ms,
            "skipped": each.progress.skipped,
            "skips": [{"offset": skip.offset, "error": skip.error} for skip in each.progress.skips],
            "error": each.progress.error,
        }
        for each in parts
    ]
    return {
        "name": name,
        "version": version,
        "declared": declared is not None and declared.version == version,
        "state": next(state for state in _WORST if state in states),
        "behind": sum(row["behind"] for row in rows) if rows else sum(ends),
        "entries": sum(row["entries"] for row in rows),
        "skipped": sum(row["skipped"] for row in rows),
        "partitions": rows,
    }
