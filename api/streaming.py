"""Responses without a known end: a page returns chunks, and each is sent as soon as it is there.

Laws [test_admin_log.py]
- The chunks end, and what makes them is closed, when the client has gone or the server ends.
- A client that reads slowly holds up its own stream only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Streamed(bytes):
    """The body of a response that is sent in chunks; as bytes it is empty."""

    chunks: AsyncGenerator[bytes, None]

    @classmethod
    def of(cls, chunks: AsyncGenerator[bytes, None]) -> Streamed:
        """The body that these chunks make."""
        body = cls()
        body.chunks = chunks
        return body


async def send_stream(
    status: int, headers: list[tuple[bytes, bytes]], body: Streamed, receive: Receive, send: Send
) -> None:
    """Send a response in chunks until they end or the client is gone.

    status, headers: of the response.
    body: its chunks.
    receive, send: of ASGI.
    """
    await send({"type": "http.response.start", "status": status, "headers": headers})
    gone = asyncio.ensure_future(_gone(receive))
    try:
        while True:
            step = asyncio.ensure_future(anext(body.chunks, None))
            await asyncio.wait((step, gone), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                step.cancel()
                with suppress(asyncio.CancelledError):
                    await step
                return
            chunk = step.result()
            await send({"type": "http.response.body", "body": chunk or b"", "more_body": chunk is not None})
            if chunk is None:
                return
    finally:
        gone.cancel()
        await body.chunks.aclose()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
