"""One connection of a Kafka client: frames are cut from its bytes, and answers leave in the order of the
requests.

Laws [tests/unit/test_wire_connection.py]
- A frame that cannot be read, is too large or requests what does not exist closes this connection, and no
  other.
- A connection holds one frame under assembly (at most `PRODUCE_FRAME_BYTES`), up to `IN_FLIGHT` produce
  requests that are not durable yet, and one answer. It is not read while there is more, or while its client
  does not read.
- A connection that is idle for `IDLE_S`, or stuck within a frame or an answer for `STUCK_S`, is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import structlog

from perdure.schemas.errors import Unauthenticated, Unavailable
from perdure.streams.wire.api import API_VERSIONS, Api
from perdure.streams.wire.broker import Broker, KafkaCaller
from perdure.streams.wire.codec import FrameReader, Message, UnreadableFrame
from perdure.streams.wire.requests import APIS, api_versions

PRODUCE = 0
PRODUCE_FRAME_BYTES = 16 * 1024 * 1024
FRAME_BYTES = 1024 * 1024  # of all other requests
STRANGER_BYTES = 64 * 1024  # of a caller that has not authenticated yet
IN_FLIGHT = 64  # produce requests
HEADER_BYTES = 8  # of a frame behind its length: key, version and correlation id
IDLE_S = 600.0
STUCK_S = 60.0

_logger = structlog.get_logger(__name__)


class ClientConnection(asyncio.Protocol):
    """A connection; `closed` is called once, with it, when it ends. `turned_away`: it is closed at once."""

    def __init__(
        self, broker: Broker, closed: Callable[[ClientConnection], None], *, turned_away: bool = False
    ) -> None:
        self._turned_away = turned_away
        self._broker = broker
        self._closed = closed
        self._buffer = bytearray()
        self._answers: deque[asyncio.Future[Any] | bytes] = deque()
        self._alone: asyncio.Future[Any] | None = None  # a request that lets no other pass
        self._writable = True
        self._reading = True
        self._active_s = broker.loop.time()
        self._transport: asyncio.Transport | None = None
        self.caller = KafkaCaller("", 0, "")

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        ours, theirs = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        self.caller = KafkaCaller(str(ours[0]), int(ours[1]), f"{theirs[0]}:{theirs[1]}" if theirs else "")
        if self._turned_away:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._buffer.clear()
        if self._alone is not None:
            self._alone.cancel()
        self._answers.clear()
        self._closed(self)

    def data_received(self, data: bytes) -> None:
        self._active_s = self._broker.loop.time()
        self._buffer += data
        self._proceed()

    def pause_writing(self) -> None:
        self._writable = False
        self._active_s = self._broker.loop.time()

    def resume_writing(self) -> None:
        self._writable = True
        self._active_s = self._broker.loop.time()
        self._proceed()

    # --- from outside

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def sweep(self, now_s: float) -> None:
        """Close the connection if nothing has happened on it for too long."""
        if self._answers and self._writable:
            return  # it waits for us
        stuck = not self._writable or len(self._buffer) > 0
        if now_s - self._active_s > (STUCK_S if stuck else IDLE_S):
            self._refuse("nothing has arrived on it, or left it, for too long")

    # --- frames

    @property
    def _free(self) -> bool:
        return self._alone is None and self._writable and len(self._answers) < IN_FLIGHT

    def _proceed(self) -> None:
        """Handle the frames that are complete, as far as there is room for their answers."""
        buffer, start = self._buffer, 0
        try:
            while self._transport is not None and self._free:
                size = self._frame_size(start)
                if size is None or len(buffer) - start - 4 < size:
                    break
                frame = bytes(memoryview(buffer)[start + 4 : start + 4 + size])
                start += 4 + size
                self._handle(frame)
        except UnreadableFrame as error:
            self._refuse(str(error))
        except Exception:  # a fault of perdure's own is this connection's, not the node's
            _logger.exception("a request of a Kafka client failed inside perdure", client=self.caller.peer)
            self.close()
        if self._transport is None:
            return
        if start:
            del buffer[:start]
        self._read_on(self._free or len(buffer) < FRAME_BYTES)

    def _read_on(self, wanted: bool) -> None:
        if self._transport is not None and wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            (self._transport.resume_reading if wanted else self._transport.pause_reading)()

    def _frame_size(self, start: int) -> int | None:
        """The size of the frame that begins at `start`; None if it cannot be known yet. Raises
        `UnreadableFrame`.
        """
        buffer = self._buffer
        if len(buffer) - start < 8:
            return None
        size = int.from_bytes(buffer[start : start + 4], "big", signed=True)
        key = int.from_bytes(buffer[start + 4 : start + 6], "big", signed=True)
        limit = PRODUCE_FRAME_BYTES if key == PRODUCE else FRAME_BYTES
        if self._is_stranger:
            limit = STRANGER_BYTES
        if not HEADER_BYTES <= size <= limit:
            raise UnreadableFrame(f"a frame of {size} bytes: at most {limit} are read")
        return size

    @property
    def _is_stranger(self) -> bool:
        return self._broker.admission is not None and self.caller.grant is None

    def _handle(self, frame: bytes) -> None:
        reader = FrameReader(frame)
        key, version, correlation = reader.integer("int16"), reader.integer("int16"), reader.integer("int32")
        api = APIS.get(key)
        if api is None or key not in self._broker.apis:
            raise UnreadableFrame(f"requests of kind {key} are not answered here")
        if not api.first <= version <= api.last:
            if key != API_VERSIONS:
                raise UnreadableFrame(
                    f"{api.name} is answered in versions {api.first} to {api.last}, not {version}"
                )
            self._answer(api, 0, correlation, api_versions.unsupported())
            return
        self._check_caller(api)
        self.caller.client_id = reader.text(compact=False) or ""
        answer = api.handle(self._broker, self.caller, api.read(version, reader), version)
        if isinstance(answer, dict) or answer is None:
            self._answer(api, version, correlation, answer)
        else:
            self._await(api, version, correlation, answer)

    def _check_caller(self, api: Api) -> None:
        admission, grant = self._broker.admission, self.caller.grant
        if admission is None or api.open:
            return
        if grant is None:
            raise UnreadableFrame(f"{api.name} before authentication: SASL is required")
        if not admission.current(grant) and self.caller.credentials is not None:
            try:
                self.caller.grant = admission.granted(self.caller.credentials)
            except (Unauthenticated, Unavailable):
                raise UnreadableFrame(f"the credentials of {grant.principal} have expired") from None

    def _answer(self, api: Api, version: int, correlation: int, response: Message | None) -> None:
        """Send an answer, once those of earlier requests are sent."""
        if response is None:
            return
        data = bytes(api.write(version, correlation, response))
        if self._answers:
            self._answers.append(data)
        elif self._transport is not None:
            self._transport.write(data)

    def _await(self, api: Api, version: int, correlation: int, answer: Awaitable[Message | None]) -> None:
        future = asyncio.ensure_future(answer)
        if not api.in_flight or asyncio.iscoroutine(answer):
            self._alone = future
        self._answers.append(future)

        def ended(future: asyncio.Future[Message | None]) -> None:
            if self._alone is future:
                self._alone = None
            if future.cancelled() or self._transport is None:
                return
            if (error := future.exception()) is not None:
                if not isinstance(error, UnreadableFrame):
                    _logger.error("a Kafka client could not be answered", request=api.name, exc_info=error)
                self._refuse(f"{api.name}: {error}")
                return
            response = future.result()
            self._replace(
                future, b"" if response is None else bytes(api.write(version, correlation, response))
            )
            self._proceed()

        future.add_done_callback(ended)

    def _replace(self, future: asyncio.Future[Any], data: bytes) -> None:
        """Put the answer in the place of its future, and send what is due."""
        answers = self._answers
        if answers[0] is not future:
            answers[answers.index(future)] = data
            return
        answers.popleft()
        ready = [data]
        while answers and isinstance(answers[0], bytes):
            ready.append(answers.popleft())
        if self._transport is not None and (joined := b"".join(ready)):
            self._transport.write(joined)
            if self.caller.turned_away:
                self._transport.close()

    def _refuse(self, why: str) -> None:
        _logger.info("a Kafka client's connection is closed", client=self.caller.peer, reason=why)
        self.close()
