"""The WebSockets of a gateway: which frames reach which connection, and what
becomes of events that are appended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.unit.one_owner import OneOwner, story

from perdure.api.gateway import Gateway
from perdure.api.replies import ReplyFuture
from perdure.api.sockets.registry import BEAT_S, SOCKETS, SocketRegistry
from perdure.objects.durable import DurableObject
from perdure.objects.http import Request, Response
from perdure.objects.sockets import WebSocket
from perdure.schemas.commands import FETCH, parse_command
from perdure.schemas.errors import OutcomeUnknown, TooLarge
from perdure.schemas.sockets import (
    BINARY,
    CLOSE,
    CLOSED,
    ENDED_KIND,
    HEARTBEAT_KIND,
    MESSAGE,
    TEXT,
    frame_out,
)
from perdure.streams.log.base import LogRecord, Topic
from perdure.streams.log.memory.broker import Faults
from perdure.streams.owner.socket_watch import SILENT_S
from perdure.streams.turns.ports import UNSEALED, OwnerState


class Wire:
    """The far end of a connection: what was sent, and what was heard of its events."""

    def __init__(self, key: str = "Thing/a") -> None:
        self.key = key
        self.position = -1
        self.auto: tuple[str, bytes] | None = None
        self.principal = ""
        self.sent: list[Any] = []
        self.turns = 0
        self.errors: list[BaseException] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self, code: int, reason: str) -> None:
        self.sent.append((code, reason))

    def fail(self, code: int, reason: str) -> None:
        self.sent.append(("failed", code))

    def ended(self) -> None:
        self.turns += 1

    def lost(self, error: BaseException) -> None:
        self.errors.append(error)

    def ping(self) -> None: ...


class Lost(Faults):
    """The next `losing` appends land and their acknowledgements do not come."""

    losing = 0

    def fate(self, step: str) -> str:
        if step != "append" or not self.losing:
            return "ok"
        self.losing -= 1
        return "lost"


class Room(DurableObject):
    """Accepts, and keeps what it hears of ends."""

    async def fetch(self, request: Request) -> Response:
        await self.state.accept_websocket(request)
        return Response.upgrade()

    async def websocket_close(self, ws: WebSocket, code: int, reason: str, was_clean: bool) -> None:
        self.env.seen.append((ws.id, code))


def gateway_story(
    told: Callable[[OneOwner, SocketRegistry], Awaitable[None]],
    *,
    kind: type[DurableObject] = DurableObject,
    shared: bool = False,
    faults: Faults | None = None,
) -> None:
    async def main(harness: OneOwner) -> None:
        gateway = Gateway(harness.log, node="n", deadline_s=1, clock_ms=harness.clock_ms, seal=UNSEALED)
        await gateway.start([harness.owner])
        sockets = SocketRegistry(gateway, harness.log, UNSEALED, node="n")
        await told(harness, sockets)

    story(kind, main, check=False, shared=shared, faults=faults)


def test_what_the_log_does_not_take_is_answered_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record over the log's bound: `TooLarge`, once, and nobody is kept waiting
    for it; so for an act of administration.
    """

    async def told(harness: OneOwner, sockets: SocketRegistry) -> None:
        def append(*_: object) -> None:
            raise TooLarge("more than the log takes")

        gateway, asked, acted = sockets.gateway, ReplyFuture(), ReplyFuture()
        with monkeypatch.context() as patch:
            patch.setattr(harness.log, "append", append)
            gateway.submit(asked, "Thing/a", FETCH, "POST", "/")
            gateway.administer(acted, "Thing/a", "pause", b"{}", "")
        for waiting in (asked, acted):
            with pytest.raises(TooLarge):
                await waiting.future
        assert gateway.waiting == 0

    gateway_story(told)


def test_a_frame_reaches_its_sockets_once_and_in_order() -> None:
    """Text, binary and close as they go over the wire; what lies at or below the last position is dropped."""

    async def told(harness: OneOwner, sockets: SocketRegistry) -> None:
        one, two = Wire(), Wire()
        sockets.opened(1, "n.1", one)
        sockets.opened(2, "n.2", two)
        text = frame_out(sockets.address, "Thing/a", TEXT, b"hi", (1, 2))
        binary = frame_out(sockets.address, "Thing/a", BINARY, b"\0", (2,))
        close = frame_out(sockets.address, "Thing/a", CLOSE, b"why", (1,), 4000)
        for _ in range(2):  # the second time as after a crash of the owner
            assert sockets.frames(text, 0, 7, 1)
            assert sockets.frames(binary, 0, 7, 2)
            assert sockets.frames(close, 0, 9, 1)
        assert one.sent == [b"\x81\x02hi", (4000, "why")]
        assert two.sent == [b"\x81\x02hi", b"\x82\x01\0"]

    gateway_story(told)


def test_frames_reach_nobody_elses_sockets() -> None:
    """Neither those of another object, nor with the numbers of a gateway that has ended, nor closed ones."""

    async def told(harness: OneOwner, sockets: SocketRegistry) -> None:
        wire = Wire()
        sockets.opened(1, "n.1", wire)
        assert sockets.frames(frame_out(sockets.address, "Thing/b", TEXT, b"x", (1,)), 0, 1, 1)
        assert sockets.frames(frame_out("0/gateway.old", "Thing/a", TEXT, b"x", (1,)), 0, 2, 1)
        sockets.closed(1)
        assert sockets.frames(frame_out(sockets.address, "Thing/a", TEXT, b"x", (1,)), 0, 3, 1)
        assert wire.sent == []

    gateway_story(told)


def test_on_a_shared_log_frames_take_the_log() -> None:
    """They are not handed over; as records they come in order, and anything else there is ignored."""

    async def told(harness: OneOwner, sockets: SocketRegistry) -> None:
        wire = Wire()
        sockets.opened(1, "n.1", wire)
        out = frame_out(sockets.address, "Thing/a", TEXT, b"hi", (1,))
        assert not sockets.frames(out, 0, 7, 1)
        named = (*out.headers, ("message-id", b"0:7/1"))
        for headers in (named, named, out.headers, ()):
            sockets.receive(LogRecord(0, 0, out.key, out.value, headers))
        assert wire.sent == [b"\x81\x02hi"]

    gateway_story(told, shared=True)


def test_an_event_is_a_sealed_command_and_its_end_is_heard() -> None:
    """Numbered, with the gateway that sent it; on an exclusive log its turn's end is told."""

    async def told(harness: OneOwner, sockets: SocketRegistry) -> None:
        wire = Wire()
        number, id_ = sockets.new_id()
        sockets.opened(number, id_, wire)
        sockets.event(wire, "Thing/a", id_, 1, MESSAGE, b"hello", ("type", TEXT))
        await harness.until(lambda: harness.owner.tables.done.mark == 1)
        (record,) = await harness.records(Topic.COMMANDS)
        command = parse_command(record.key, record.value, record.headers, UNSEALED)
        assert (command.key, command.method, command.path, command.body) == (
            "Thing/a",
            MESSAGE,
            id_,
            b"hello",
        )
        assert command.headers == (("type", TEXT), ("n", "1"), ("gateway", sockets.address))
        assert command.reply_to == SOCKETS
        assert sockets.ended(SOCKETS, command.id)
        assert wire.turns == 1
        assert not sockets.ended("0/gateway.x", command.id)

    gateway_story(told)


def test_what_is_not_known_to_be_durable_is_told() -> None:
    """A message: its connection hears it. A close: it is appended again until it is known to be there."""

    faults = Lost()

    async def told(harness: OneOwner, sockets: SocketRegistry) -> None:
        wire = Wire()
        faults.losing = 2
        sockets.event(wire, "Thing/a", "n.00000000", 1, MESSAGE, b"x", ("type", TEXT))
        sockets.event(None, "Thing/a", "n.00000000", 2, CLOSED, b"", ("code", "1006"), ("clean", "0"))
        await harness.until(
            lambda: harness.owner.state is OwnerState.SERVING and harness.owner.tables.done.mark == 3
        )
        assert [type(error) for error in wire.errors] == [OutcomeUnknown]
        methods = [dict(each.headers)["perdure-method"] for each in await harness.records(Topic.COMMANDS)]
        assert methods == [b"message", b"close", b"close"]

    gateway_story(told, shared=True, faults=faults)


def test_a_gateway_with_sockets_says_that_it_lives() -> None:
    """Each few seconds while it has one, on a log that others share; one without sockets is silent."""

    async def told(harness: OneOwner, sockets: SocketRegistry) -> None:
        beating = asyncio.create_task(sockets.beat())
        await asyncio.sleep(BEAT_S * 3)
        assert await harness.records(Topic.REPLIES) == []
        sockets.opened(0, "n.0", Wire())
        await asyncio.sleep(BEAT_S * 3)
        beats = await harness.records(Topic.REPLIES)
        assert {(each.key, each.headers) for each in beats} == {(b"gateway.n", (HEARTBEAT_KIND,))}
        assert len(beats) in (2, 3)
        beating.cancel()

    gateway_story(told, shared=True)


def test_one_that_was_taken_for_ended_goes_on_under_another_name() -> None:
    """Its sockets are closed, also one that was asked for before; frames for the
    old name reach none of the new ones.
    """

    async def told(harness: OneOwner, sockets: SocketRegistry) -> None:
        one, two, late = Wire(), Wire(), Wire()
        (number, id_), (late_number, late_id) = sockets.new_id(), sockets.new_id()
        sockets.opened(number, id_, one)
        before = sockets.address
        key = before.partition("/")[2].encode()
        for ended in (b"gateway.other", key, key):  # the last one came twice: it means who is no more
            sockets.receive(LogRecord(0, 0, ended, b"", (ENDED_KIND,)))
        assert one.sent == [("failed", 1012)]
        assert sockets.address != before
        sockets.opened(late_number, late_id, late)
        assert late.sent == [("failed", 1012)]
        number, id_ = sockets.new_id()
        sockets.opened(number, id_, two)
        for address in (before, sockets.address):
            out = frame_out(address, "Thing/a", TEXT, address.encode(), (number,))
            headers = (*out.headers, ("message-id", b"0:7/1"))
            assert sockets.receive(LogRecord(0, 0, out.key, out.value, headers))
        assert [each[2:].decode() for each in two.sent] == [sockets.address]

    gateway_story(told, shared=True)


def test_who_lives_and_was_not_heard_learns_of_it() -> None:
    """An owner takes it for ended: its object hears 1006 once, and the gateway
    closes the connection it still has.
    """

    async def told(harness: OneOwner, sockets: SocketRegistry) -> None:
        wire, waiting = Wire(), ReplyFuture()
        number, id_ = sockets.new_id()
        address = sockets.address
        sockets.gateway.submit(waiting, "Thing/a", FETCH, "GET", "/", socket=f"{id_} {address}")
        assert (await waiting.future).reply.status == 101
        sockets.opened(number, id_, wire)
        await harness.until(lambda: wire.sent)
        assert wire.sent == [("failed", 1012)]
        await harness.until(lambda: harness.seen)
        assert harness.seen == [(id_, 1006)]
        assert sockets.address != address

    gateway_story(told, kind=Room, shared=True)


def test_no_socket_is_closed_before_its_gateway_is_told() -> None:
    """If the word to it is lost, it is said again at the next look; until then no object hears of an end."""

    faults = Lost()

    async def told(harness: OneOwner, sockets: SocketRegistry) -> None:
        waiting = ReplyFuture()
        _, id_ = sockets.new_id()
        sockets.gateway.submit(waiting, "Thing/a", FETCH, "GET", "/", socket=f"{id_} 0/gateway.old")
        await waiting.future
        await harness.until(lambda: harness.owner.tables.sockets.of("Thing/a"))
        faults.losing = 1
        await harness.until(lambda: not faults.losing)
        await asyncio.sleep(SILENT_S / 2)
        assert harness.seen == []
        await harness.until(lambda: harness.seen)
        ends = [each for each in await harness.records(Topic.REPLIES) if ENDED_KIND in each.headers]
        assert {each.key for each in ends} == {b"gateway.old"}

    gateway_story(told, kind=Room, shared=True, faults=faults)
