"""The placeholder server of `perdure dev`: answers each request with 503 while the app cannot be started.

It listens on the socket that the app's server will take over, so that no request hangs while the code is
broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from perdure.api.problems import problem
from perdure.schemas.errors import Unavailable
from perdure.schemas.statuses import UNAVAILABLE_STATUS

_HEAD_S = 5.0  # to receive a request's head
_REST_S = 1.0  # to drain the rest, so that a client that still sends reads the answer


@asynccontextmanager
async def placeholder(listener: socket.socket, folder: Path) -> AsyncIterator[None]:
    """Answer every connection to `listener` with 503 while this context is entered; `listener` stays open."""
    answer = _answer(
        f"the app cannot be started, and nothing was done: the terminal of `perdure dev` says why. It is "
        f"started again after the next change in {folder}"
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            async with asyncio.timeout(_HEAD_S):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(
                answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head.startswith(b"HEAD ") else answer
            )
            writer.write_eof()
            async with asyncio.timeout(_REST_S):
                while await reader.read(1 << 16):
                    pass
        writer.close()

    # a duplicate has the same queue of connections; closing it leaves `listener` open
    server = await asyncio.start_server(serve, sock=listener.dup())
    try:
        yield
    finally:
        server.close()


def _answer(text: str) -> bytes:
    status, headers, body = problem(Unavailable.code, text, status=UNAVAILABLE_STATUS)
    sent = (*headers, (b"content-length", b"%d" % len(body)), (b"connection", b"close"))
    head = b"".join(b"%s: %s\r\n" % header for header in sent)
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, HTTPStatus(status).phrase.encode(), head, body)
