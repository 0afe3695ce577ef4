"""`POST /admin/sql` with `{"query": "select …", "at": "15m", "limit": 1000}`: a question over all objects.

It is answered by a process of its own (streams/sql/worker.py), one at a time. [test_sql.py]
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from perdure.schemas.commands import parse_json
from perdure.schemas.config import Config
from perdure.schemas.errors import MalformedCommand
from perdure.streams.audit.query import parse_time
from perdure.streams.sql.worker import answered

ROWS, ROWS_MAX = 1_000, 100_000


class SqlPage:
    """The page of questions of one node; `config` is the app's configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._one = asyncio.Lock()

    async def answer(self, body: bytes) -> dict[str, Any]:
        """Answer the question in the body of a request. Raises `MalformedCommand` or `OperatorError`."""
        fields = parse_json(body)
        if type(fields) is not dict or not fields.keys() <= {"query", "at", "limit"} or "query" not in fields:
            raise MalformedCommand('the body is {"query": "select …"}, with "at" and "limit" if you like')
        query, at, limit = fields["query"], fields.get("at"), fields.get("limit", ROWS)
        if type(query) is not str or type(limit) is not int or not 0 < limit <= ROWS_MAX:
            raise MalformedCommand(f"query is a text, limit a number up to {ROWS_MAX}")
        if at is not None and type(at) is not str:
            raise MalformedCommand("at is a time, such as 2026-11-01T12:00 or 15m")
        at_ms = None if at is None else parse_time(at, int(time.time() * 1000))
        async with self._one:
            answer = await answered(self._config, query, at_ms, limit)
        return {"columns": answer.columns, "rows": answer.rows, "cut": answer.cut}
