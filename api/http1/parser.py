"""The parser of one connection's HTTP/1.1 requests (RFC 9112): complete heads, then bodies in pieces as they
arrive.

    head --no body--> head …          the connection stays, and the next request follows
      |--content-length--> body --> head …
      |--chunked--> size line --> data --> size line … --> trailers --> head …
      |--upgrade to a WebSocket--> ended: the bytes that follow are not HTTP
      `--close, or HTTP/1.0--> after its body: ended, nothing more is read

It does no I/O: the connection (api/protocol/http.py) feeds it bytes, and it calls the connection back.

Laws [test_http1.py]
- How bytes are read, and how invalid ones are refused, does not depend on the pieces in which they arrive.
- A head, and the trailers of a body, fit `head_max_bytes`: no more of them is kept.
- Heads are read in one place (heads.py). Bodies are read with the same strictness: lines end with CRLF.
"""

from __future__ import annotations

import re
from typing import Protocol

from perdure.api.http1.heads import (
    BAD_FIELD,
    BAD_LINE,
    TOKEN,
    Invalid,
    RequestHead,
    check_line,
    fields_in,
    read_request_head,
)

_BROKEN = re.compile(rb"\r[^\n]|(?<!\r)\n")  # half of an end of line
_FIRST = re.compile(TOKEN)
_EXTENSION = rb"[ \t]*+;[^\x00-\x08\x0a-\x1f\x7f]*+"
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(" + _EXTENSION + rb")?\r\n")
_PART_OF_CHUNK = re.compile(rb"[0-9A-Fa-f]{1,16}(?:" + _EXTENSION + rb"|[ \t]*+)\r?")
_BAD_CHUNK = "A chunk of the body does not begin with its size, on a line of at most 1024 bytes."
CHUNK_LINE_MAX = 1024
_HEAD, _BODY, _SIZE, _DATA, _DATA_END, _TRAILERS, _SWITCHED, _ENDED = range(8)


class Receiver(Protocol):
    """The parser's callbacks. `RequestParser.head` is the head that was read last."""

    def on_message_begin(self) -> None: ...

    def on_headers_complete(self) -> None: ...

    def on_body(self, body: bytes) -> None: ...

    def on_message_complete(self) -> None: ...


class RequestParser:
    """Parses the requests of one connection: `feed` it the bytes. After an
    `Invalid` it ignores all others.
    """

    __slots__ = (
        "_extra_bytes",
        "_head_max_bytes",
        "_left",
        "_rest",
        "_seen",
        "_state",
        "_to",
        "begun",
        "head",
        "idle",
    )

    def __init__(self, to: Receiver, head_max_bytes: int) -> None:
        self.head = RequestHead(b"", b"", "1.1", [], 0, True, False, False)
        self._to = to
        self._head_max_bytes = head_max_bytes
        self._state = _HEAD
        self.begun = False  # True if a request has begun and is not complete
        self.idle = True  # True if nothing has arrived since the last request
        self._rest = bytearray()  # an incomplete head, chunk's line or trailers
        self._seen = 0  # bytes of `_rest` that are known to hold no end
        self._left = 0  # bytes that are missing of a body or of a chunk
        self._extra_bytes = 0  # of the extensions of a body's chunks

    # Called by uvicorn

    def get_method(self) -> bytes:
        return self.head.method

    def get_http_version(self) -> str:
        return self.head.version

    def should_keep_alive(self) -> bool:
        return self.head.keep_alive

    def should_upgrade(self) -> bool:
        return self.head.switches

    @property
    def in_body(self) -> bool:
        """True if a body is being read; its trailers do not count, since they are bounded like a head."""
        return _BODY <= self._state <= _DATA_END

    def end(self) -> None:
        """Ignore everything from here on."""
        self._state = _ENDED
        self.begun = self.idle = False
        self._rest.clear()

    def feed(self, data: bytes) -> bytes | None:
        """Read on. Returns the bytes after a request for a WebSocket, otherwise None. Raises `Invalid`."""
        at = 0
        try:
            while at < len(data):
                state = self._state
                if state == _HEAD:
                    data, at = self._read_head(data, at)
                    if self._state == _SWITCHED:
                        return data[at:]
                elif state in (_BODY, _DATA):
                    at = self._read_body(data, at)
                elif state == _SIZE:
                    data, at = self._read_chunks(data, at)
                elif state == _DATA_END:
                    at = self._read_data_end(data, at)
                elif state == _TRAILERS:
                    data, at = self._read_trailers(data, at)
                else:
                    break
        except BaseException:
            self.end()
            raise
        return None

    # Heads

    def _read_head(self, data: bytes, at: int) -> tuple[bytes, int]:
        rest = self._rest
        if not self.begun:
            if rest:  # half of an empty line
                data, at = bytes(rest) + data[at:], 0
                rest.clear()
            while data.startswith(b"\r\n", at):  # RFC 9112 2.2
                at += 2
            if len(data) - at < 2 and data[at:] in (b"", b"\r"):
                rest += data[at:]
                self.idle = not rest
                return b"", 0
            self.begun, self.idle = True, False
            self._to.on_message_begin()
        data, at, end = self._to_empty_line(data, at)
        if end == 0:
            self._look_at(rest)
            self._seen = len(rest)
            return b"", 0
        if end - at > self._head_max_bytes:
            self._seen = 0
            self._look_at(data[at:end])
        self.head = head = read_request_head(data, at, end)
        if head.switches:
            self._state = _SWITCHED
        elif head.size is None:
            self._state, self._extra_bytes = _SIZE, 0
        elif head.size:
            self._state, self._left = _BODY, head.size
        self._to.on_headers_complete()
        if self._state == _HEAD:
            self._end_message()
        return data, end

    def _to_empty_line(self, data: bytes, at: int) -> tuple[bytes, int, int]:
        """The bytes to read, where they begin, and the end of the first empty line (0: not yet here)."""
        rest = self._rest
        if not rest:
            end = data.find(b"\r\n\r\n", at)
            if end >= 0:
                return data, at, end + 4
            rest += data[at:]
            return b"", 0, 0
        rest += data[at:]
        end = rest.find(b"\r\n\r\n", max(self._seen - 3, 0))
        if end < 0:
            return b"", 0, 0
        data = bytes(rest)
        rest.clear()
        self._seen = 0
        return data, 0, end + 4

    def _look_at(self, part: bytes | bytearray) -> None:
        """Refuse an incomplete head that is too long or invalid. Bytes before `_seen` are checked already."""
        seen, most = self._seen, self._head_max_bytes
        if not _FIRST.match(part):
            raise Invalid(400, BAD_LINE)
        if part.find(b"\n", 0, seen) < 0 and (end := part.find(b"\n", seen, most) + 1):
            check_line(bytes(part[:end]))
        if broken := _BROKEN.search(part, max(seen - 1, 0), most):
            raise Invalid(400, BAD_FIELD if part.find(b"\n", 0, broken.start()) > 0 else BAD_LINE)
        if len(part) <= most:
            return
        if part.find(b"\n", 0, most) < 0:
            raise Invalid(414, f"The request line must not exceed {most} bytes.")
        raise Invalid(431, f"Request line and headers must not exceed {most} bytes.")

    def _end_message(self) -> None:
        self._state = _HEAD if self.head.keep_alive else _ENDED
        self.begun, self.idle = False, True
        self._to.on_message_complete()

    # Bodies

    def _read_body(self, data: bytes, at: int) -> int:
        end = min(at + self._left, len(data))
        self._left -= end - at
        self._to.on_body(data[at:end])
        if self._left == 0:
            if self._state == _DATA:
                self._state, self._left = _DATA_END, 2
            elif self._state == _BODY:
                self._end_message()
        return end

    def _read_data_end(self, data: bytes, at: int) -> int:
        """Read the end of line after a chunk's data, of which `_left` bytes are missing."""
        end = at + self._left
        part = data[at:end]
        if not b"\r\n"[2 - self._left :].startswith(part):
            raise Invalid(400, "A chunk of the body is longer than its size.")
        self._left -= len(part)
        if self._left == 0:
            self._state = _SIZE
        return end

    def _read_chunks(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Read complete chunks; the data of an incomplete one, or trailers, follow."""
        if self._rest:
            data, at = bytes(self._rest) + data[at:], 0
            self._rest.clear()
        while self._state == _SIZE and at < len(data):
            line = _CHUNK.match(data, at)
            if line is None:
                if len(data) - at >= CHUNK_LINE_MAX or not _PART_OF_CHUNK.fullmatch(data, at):
                    raise Invalid(400, _BAD_CHUNK)
                self._rest += data[at:]
                return b"", 0
            begin = line.end()
            if line[2] is not None:
                self._extra_bytes += len(line[2])
                if begin - at > CHUNK_LINE_MAX:
                    raise Invalid(400, _BAD_CHUNK)
                if self._extra_bytes > self._head_max_bytes:
                    raise Invalid(
                        400, f"The extensions of chunks must not exceed {self._head_max_bytes} bytes."
                    )
            size = int(line[1], 16)
            end = begin + size
            if size == 0:
                self._state, at = _TRAILERS, begin
            elif data.startswith(b"\r\n", end):
                self._to.on_body(data[begin:end])
                at = end + 2
            else:
                self._state, self._left, at = _DATA, size, begin
        return data, at

    def _read_trailers(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Read the trailers of a chunked body, and drop them: they must not be used as headers."""
        rest, most = self._rest, self._head_max_bytes
        if not rest and data.startswith(b"\r\n", at):
            self._end_message()
            return data, at + 2
        if rest == b"\r" and data.startswith(b"\n", at):
            rest.clear()
            self._seen = 0
            self._end_message()
            return data, at + 1
        data, at, end = self._to_empty_line(data, at)
        part: bytes | bytearray = data[at:end] if end else rest
        if _BROKEN.search(part, max(self._seen - 1, 0), most):
            raise Invalid(400, BAD_FIELD)
        if len(part) > most:
            raise Invalid(431, f"Trailers must not exceed {most} bytes.")
        if not end:
            self._seen = len(part)
            return b"", 0
        fields_in(b"\r\n" + part)
        self._end_message()
        return data, end
