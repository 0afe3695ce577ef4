"""HTTP as bytes: a small client that shares two cores with the server it loads, and
can send what no library would.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx

PATIENCE_S = 60.0  # an upper bound for what is waited for, never a pause

Place = tuple[int, int]


class Answer(NamedTuple):
    """What came back; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """What kind of problem it is; empty if it is none."""
        if self.headers.get("content-type") != "application/problem+json":
            return ""
        told: str = self.json["type"]
        assert self.json["status"] == self.status, self
        return told.removeprefix("urn:perdure:problem:")

    @property
    def place(self) -> Place | None:
        """Partition and offset of the command, if the answer names one."""
        if "perdure-command" not in self.headers:
            return None
        partition, _, offset = self.headers["perdure-command"].partition(":")
        return int(partition), int(offset)


class Wire:
    """One connection, one request at a time: `async with Wire(port) as wire`.

    Raises `ConnectionError` if the server ends it before its answer is whole.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until what was sent has left, or most of it."""
        await self._writer.drain()

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()
    ) -> Answer:
        """Send one request; `path` goes out as it is."""
        more = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode("latin-1") + body)
        return await self.answer(bodiless=method == "HEAD")

    async def answer(self, *, bodiless: bool = False) -> Answer:
        """The next answer on the connection."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            lines = head[:-4].decode("latin-1").split("\r\n")
            headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines[1:])}
            length = 0 if bodiless else int(headers.get("content-length", 0))
            body = await self._reader.readexactly(length) if length else b""
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the server ended the connection") from error
        return Answer(int(lines[0].split(" ", 2)[1]), headers, body)


class Inside:
    """The same questions, put to the application of a node in this process."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        told = await self._client.request(method, f"http://node{path}", content=body)
        return Answer(told.status_code, dict(told.headers), told.content)


async def ask(port: int, method: str, path: str, body: bytes = b"") -> Answer:
    """One request on a connection of its own."""
    async with asyncio.timeout(PATIENCE_S), Wire(port) as wire:
        return await wire.ask(method, path, body)
