"""A Faust app whose agent reads replies: what it reads is in the environment; it ends by itself."""

from __future__ import annotations

import os
from typing import Any

import faust

count, prefix = int(os.environ["COUNT"]), f"Counter/{os.environ['PREFIX']}-"
app: Any = faust.App(
    "readers", broker=f"kafka://{os.environ['BROKER']}", store="memory://", web_enabled=False
)
replies = app.topic(f"{os.environ['APP']}.replies", key_serializer="raw", value_serializer="raw")
seen: set[bytes] = set()


@app.agent(replies)
async def read(stream: Any) -> None:
    async for key, _ in stream.items():  # noqa: PERF102 - a stream is not a dict
        if key.startswith(prefix.encode()):
            seen.add(key)
        if len(seen) == count:
            os._exit(0)
