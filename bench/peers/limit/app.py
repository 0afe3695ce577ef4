"""The limit loop as an ASGI application.

Laws
- A POST is answered after its command, its journal entry and the counter's new value are fsynced.
- All that waits goes into one write batch: one fsync for many requests.
- A GET answers from memory and may see a count that is not durable yet: cheaper than perdure may be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rocksdict import Options, Rdict, WriteBatch, WriteOptions

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Entry(msgspec.Struct, array_like=True):
    """The effects of one turn."""

    epoch: int
    seq: int
    command: int
    key: str
    puts: list[tuple[str, int]]
    reply: bytes


class Work(NamedTuple):
    """One answered POST that waits for the disk."""

    offset: int
    command: bytes
    entry: bytes
    key: bytes
    value: bytes
    durable: asyncio.Future[None]


class LimitLoop:
    """A durable counter per path, kept in a RocksDB in `directory`."""

    def __init__(self, directory: Path) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        self._db = Rdict(str(directory), options)
        self._sync = WriteOptions()
        self._sync.sync = True
        self._pool = ThreadPoolExecutor(1)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder().decode
        self._counts: dict[str, int] = {}
        self._waiting: list[Work] = []  # bounded by the open connections: each has one request in flight
        self._wake = asyncio.Event()
        self._offset = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["method"] == "POST":
            reply = await self._add(scope, await _body(receive))
        else:
            reply = b'{"count":%d}' % self._counts.get(scope["path"], 0)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(reply)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        committer = asyncio.create_task(self._commit())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        committer.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _add(self, scope: Scope, body: bytes) -> bytes:
        key: str = scope["path"]
        headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        command = self._encode((key, "fetch", scope["method"], key, headers, body, time.time()))
        self._offset += 1
        self._decode(command)
        count = self._counts[key] = self._counts.get(key, 0) + 1
        reply = b'{"count":%d}' % count
        entry = self._encode(Entry(1, self._offset, self._offset, key, [("count", count)], reply))
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        row = b"s" + key.encode() + b"\0count"
        self._waiting.append(Work(self._offset, command, entry, row, self._encode(count), durable))
        self._wake.set()
        await durable
        return reply

    async def _commit(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                work, self._waiting = self._waiting, []
                await loop.run_in_executor(self._pool, self._db.write, _batch(work), self._sync)
                for one in work:
                    if not one.durable.done():  # cancelled: its client went away
                        one.durable.set_result(None)


def _batch(work: list[Work]) -> WriteBatch:
    batch = WriteBatch(raw_mode=True)
    for one in work:
        offset = one.offset.to_bytes(8, "big")
        batch.put(b"c" + offset, one.command)
        batch.put(b"j" + offset, one.entry)
        batch.put(one.key, one.value)
    return batch


async def _body(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body
