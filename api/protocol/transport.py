"""A transport that joins small writes, and the flow control that decides if a connection is read from.

uvicorn writes head and body of a response separately, and uvloop makes a system call of each.
`JoiningTransport` stands between the two, for each connection.

Law: writes within one pass of the event loop leave in one system call and one segment. Nothing is held longer
than that pass, and never more than 64 KiB, so that back-pressure still works. [test_direct_connections.py]
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl

JOINED_MAX_BYTES = 64 * 1024


class JoiningTransport:
    """A transport that joins the writes of one pass of the event loop; other calls go to `bare`.

    It has no `__getattr__`: with one, each access to an attribute would be slow.
    """

    __slots__ = (
        "_call_soon",
        "_parts",
        "_size_bytes",
        "_unsent",
        "bare",
        "is_closing",
        "pause_reading",
        "resume_reading",
    )

    def __init__(
        self, bare: asyncio.Transport, loop: asyncio.AbstractEventLoop, unsent: list[JoiningTransport]
    ) -> None:
        self.bare = bare
        self._unsent = unsent
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._call_soon = loop.call_soon
        # bound here, since these are called for each response
        self.is_closing = bare.is_closing
        self.pause_reading = bare.pause_reading
        self.resume_reading = bare.resume_reading

    def write(self, data: bytes) -> None:
        if not self._parts:
            if not self._unsent:
                self._call_soon(_flush_all, self._unsent)
            self._unsent.append(self)
        self._parts.append(data)
        self._size_bytes += len(data)
        if self._size_bytes > JOINED_MAX_BYTES:
            self.flush()

    def write_now(self, whole: bytes) -> None:
        """Send a complete response at once, after earlier writes."""
        if self._parts:
            self.write(whole)
        elif not self.bare.is_closing():
            self.bare.write(whole)

    def flush(self) -> None:
        if self._parts:
            parts, self._parts, self._size_bytes = self._parts, [], 0
            if not self.bare.is_closing():
                self.bare.write(b"".join(parts))

    def close(self) -> None:
        self.flush()
        self.bare.close()

    def write_eof(self) -> None:
        self.flush()
        self.bare.write_eof()

    def abort(self) -> None:
        self.bare.abort()

    def can_write_eof(self) -> bool:
        return self.bare.can_write_eof()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.bare.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self.bare.get_write_buffer_size()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.bare.set_protocol(protocol)


class Flow(FlowControl):
    """Flow control: no reading while requests wait in the pipeline or responses in the buffer."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if self.read_paused and not self.write_paused and not self._pipeline:
            super().resume_reading()


def _flush_all(unsent: list[JoiningTransport]) -> None:
    waiting = unsent.copy()
    unsent.clear()
    for transport in waiting:
        transport.flush()
