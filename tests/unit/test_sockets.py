"""WebSockets from the object's side: an owner on virtual time, events put onto the log as a gateway would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.one_owner import GATEWAY, OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.objects.http import Request, Response
from perdure.objects.sockets import MAX_ATTACHMENT_BYTES, WebSocket
from perdure.objects.websocket_pair import WebSocketPair
from perdure.schemas.commands import FETCH, LOCAL, NOBODY, SOCKET, Command, sealed_record
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.replies import FAILED, OK, UNAVAILABLE, Reply
from perdure.schemas.sockets import (
    AUTO,
    CLOSED,
    HEARTBEAT_KIND,
    MESSAGE,
    Frame,
    number_of,
    socket_id,
)
from perdure.schemas.sockets import CLOSE as CLOSE_FRAME
from perdure.streams.log.base import Record, Topic
from perdure.streams.log.memory.broker import Faults
from perdure.streams.owner import socket_watch
from perdure.streams.owner.socket_watch import SILENT_S
from perdure.streams.state.socket_rows import SocketRows
from perdure.streams.turns import socket_events
from perdure.streams.turns.ports import UNSEALED, PartitionBounds

OLD_GATEWAY = "0/gateway.old"


class Room(DurableObject):
    """`env.seen` hears what happened; messages say what to do."""

    async def start(self) -> None:
        self.env.seen.append("start")

    async def fetch(self, request: Request) -> Response:
        if request.path == "/refuse":
            await self.state.accept_websocket(request)
            raise ValueError("after accepting")
        if request.path == "/pair":
            client, self.server = WebSocketPair()
            self.server.accept()
            self.server.add_event_listener("message", lambda event: self.server.send(f"heard {event.data}"))
            self.server.add_event_listener("close", lambda event: self.env.seen.append(("end", event.code)))
            return Response(None, status=101, web_socket=client)
        await self.state.accept_websocket(request, tags=[request.path.strip("/")])
        return Response.upgrade()

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        assert isinstance(message, str)
        match message.split():
            case ["each", text]:
                for other in self.state.websockets():
                    other.send(text)
            case ["twice", text]:
                ws.send(text)
                ws.send(text)
            case ["all", text, *tags]:
                self.state.broadcast(text, *tags)
            case ["attach", text]:
                ws.serialize_attachment(text)
            case ["attached"]:
                ws.send(str(ws.deserialize_attachment()))
            case ["fail", text]:
                ws.send(text)
                ws.serialize_attachment(text)
                self.state.websockets()[0].close()
                raise ValueError(text)
            case ["close", code]:
                ws.close(int(code), "why")
                ws.send("after its close")
            case ["auto"]:
                self.state.set_websocket_auto_response("ping", "pong")

    async def websocket_close(self, ws: WebSocket, code: int, reason: str, was_clean: bool) -> None:
        self.env.seen.append((ws.id[-1], code, was_clean, ws.tags, len(self.state.websockets())))
        if reason == "fail":
            raise ValueError(reason)
        if reason.startswith("echo"):
            ws.close(code, reason)
        elif reason == "hang up":
            for other in self.state.websockets():
                other.close(code, reason)

    async def grow(self, size: int) -> str:
        try:
            self.state.websockets()[0].serialize_attachment("x" * size)
        except ValueError as error:
            return type(error).__name__
        return "fits"

    async def count(self) -> int:
        return len(self.state.websockets())


def socket(number: int) -> str:
    return socket_id("g1", number)


async def upgrade(harness: OneOwner, number: int, path: str = "/red", gateway: str = GATEWAY) -> Reply:
    """A client asks for a WebSocket: the object's answer."""
    headers, asked = (("upgrade", "websocket"),), f"{socket(number)} {gateway}"
    command = Command("Thing/a", FETCH, "GET", path, headers, b"", "id", LOCAL, socket=asked)
    return (await harness.replies(harness.append(Record(*sealed_record(command, UNSEALED)))))[0]


def event(harness: OneOwner, number: int, method: str, body: str, **facts: str) -> None:
    """Something happens on a socket."""
    headers = tuple({"type": "text"} | facts) and tuple(({"type": "text"} | facts).items())
    command = Command("Thing/a", SOCKET, method, socket(number), headers, body.encode(), "e", NOBODY)
    harness.append(Record(*sealed_record(command, UNSEALED)))


async def say(harness: OneOwner, number: int, text: str) -> list[Frame]:
    """A message; the frames that leave because of it."""
    before = len(harness.ingress.shown)
    event(harness, number, MESSAGE, text)
    await settle(harness)
    return harness.ingress.shown[before:]


async def settle(harness: OneOwner) -> None:
    """Everything that was asked is done."""
    asked = harness.broker.streams[Topic.COMMANDS, 0]
    await harness.until(
        lambda: not harness.log._queues.get(asked) and harness.owner.tables.done.mark == asked.end
    )


def texts(frames: list[Frame]) -> list[tuple[bytes, tuple[int, ...]]]:
    return [(frame.data, frame.sockets) for frame in frames]


def test_frames_to_many_are_one_record() -> None:
    """A loop of sends of the same text and a broadcast are each one Out with all
    ids; the same twice is two.
    """

    async def told(harness: OneOwner) -> None:
        for number in range(3):
            assert (await upgrade(harness, number, "/blue" if number else "/red")).status == 101
        assert texts(await say(harness, 0, "each hello")) == [(b"hello", (0, 1, 2))]
        assert texts(await say(harness, 0, "all hi")) == [(b"hi", (0, 1, 2))]
        assert texts(await say(harness, 0, "all you blue")) == [(b"you", (1, 2))]
        assert texts(await say(harness, 1, "twice x")) == [(b"x", (1,)), (b"x", (1,))]
        outboxes = [len(entry.outbox) for entry in await harness.journal()]
        assert outboxes == [0, 0, 0, 1, 1, 1, 2]

    story(Room, told)


def test_a_failed_turn_leaves_nothing_on_its_sockets() -> None:
    """No frame, no attachment, no close; a socket accepted in a failed turn is none."""

    async def told(harness: OneOwner) -> None:
        await upgrade(harness, 0)
        await say(harness, 0, "attach before")
        assert await say(harness, 0, "fail after") == []
        assert texts(await say(harness, 0, "attached")) == [(b"before", (0,))]
        refused = await upgrade(harness, 1, "/refuse")
        assert refused.outcome == FAILED
        assert (await harness.call("a", "count")).body == b'{"result":1}'

    story(Room, told)


def test_handler_style_survives_eviction_and_a_new_reign() -> None:
    """Tags and attachments are rows: the object may leave memory between two
    messages, or its owner begin anew.
    """

    async def told(harness: OneOwner) -> None:
        await upgrade(harness, 0)
        await say(harness, 0, "attach mine")
        await harness.call("b", "count")  # one activation is allowed
        assert list(harness.owner.turns.activations) == ["Thing/b"]
        assert texts(await say(harness, 0, "attached")) == [(b"mine", (0,))]
        await harness.end()
        await harness.begin()
        assert texts(await say(harness, 0, "attached")) == [(b"mine", (0,))]
        assert harness.seen.count("start") == 4

    story(Room, told, bounds=PartitionBounds(activations=1))


def test_rows_are_decoded_once_per_residence() -> None:
    """What the activation remembers is what the tables have, also while entries are under way."""

    async def told(harness: OneOwner) -> None:
        for number in range(3):
            await upgrade(harness, number)
        for number in (0, 1):
            event(harness, 2, MESSAGE, f"attach {number}")
            event(harness, number, CLOSED, "", code="1000", clean="1")
        event(harness, 2, MESSAGE, "all here")
        await settle(harness)
        assert texts(harness.ingress.shown) == [(b"here", (2,))]
        activation = harness.owner.turns.activations["Thing/a"]
        assert activation.socket_rows == harness.owner.tables.sockets.of("Thing/a")
        assert list(activation.socket_rows) == [socket(2)]

    story(Room, told)


def test_events_of_sockets_that_are_gone_wake_nobody() -> None:
    """They are done: no instance, no entry, no handler."""

    async def told(harness: OneOwner) -> None:
        event(harness, 7, MESSAGE, "all x")
        event(harness, 7, CLOSED, "", code="1000", clean="1")
        await settle(harness)
        assert harness.seen == []
        assert await harness.journal() == []

    story(Room, told)


def test_a_close_is_told_once_and_its_row_goes_even_if_the_handler_fails() -> None:
    """The object sees the socket's tags for the last time, and not the socket among those it has."""

    async def told(harness: OneOwner) -> None:
        await upgrade(harness, 0)
        await upgrade(harness, 1)
        event(harness, 0, CLOSED, "fail", code="1001", clean="1")
        event(harness, 0, CLOSED, "fail", code="1001", clean="1")
        await settle(harness)
        assert harness.seen[1:] == [("0", 1001, True, ("red",), 1)]
        assert list(harness.owner.tables.sockets.of("Thing/a")) == [socket(1)]

    story(Room, told)


@pytest.mark.parametrize("code", [0, 1000, 1004, 1005, 1006, 1015, 2999, 5000, 65535, 4001])
def test_a_socket_that_has_gone_may_be_closed_with_anything(code: int) -> None:
    """With the code that its handler was handed, and a reason of any length:
    nothing is sent and the turn stands.
    """

    async def told(harness: OneOwner) -> None:
        await upgrade(harness, 0)
        event(harness, 0, CLOSED, "echo" + "é" * 200, code=str(code), clean="0")
        await settle(harness)
        assert harness.seen[1:] == [("0", code, False, ("red",), 0)]
        assert harness.ingress.shown == []
        assert list(harness.owner.tables.sockets.of("Thing/a")) == []

    story(Room, told)


@pytest.mark.parametrize(("reported", "sent"), [(1000, 1000), (1005, 1000), (1006, 1001), (1015, 1001)])
def test_a_close_passed_on_is_sent_with_a_code_that_a_frame_can_carry(reported: int, sent: int) -> None:
    """To the object's other sockets; codes that are only ever reported have a nearest one."""

    async def told(harness: OneOwner) -> None:
        await upgrade(harness, 0)
        await upgrade(harness, 1)
        event(harness, 0, CLOSED, "hang up", code=str(reported), clean="0")
        await settle(harness)
        (frame,) = harness.ingress.shown
        assert (frame.type, frame.code, frame.data, frame.sockets) == (CLOSE_FRAME, sent, b"hang up", (1,))

    story(Room, told)


@pytest.mark.parametrize("code", [0, 999, 1004, 1016, 2999, 5000])
def test_an_open_socket_is_not_closed_with_a_code_that_means_nothing(code: int) -> None:
    """The message's turn fails, and says which code."""

    async def told(harness: OneOwner) -> None:
        await upgrade(harness, 0)
        assert await say(harness, 0, f"close {code}") == []
        failed = (await harness.journal())[-1]
        assert failed.reply.error is not None
        assert f"the close code {code} cannot be sent" in failed.reply.error.message

    story(Room, told)


def test_an_object_that_closes_hears_no_more() -> None:
    """Its close is a frame with code and reason; what it sends behind it goes nowhere."""

    async def told(harness: OneOwner) -> None:
        await upgrade(harness, 0)
        (frame,) = await say(harness, 0, "close 4001")
        assert (frame.type, frame.code, frame.data, frame.sockets) == (CLOSE_FRAME, 4001, b"why", (0,))
        event(harness, 0, CLOSED, "", code="4001", clean="1")
        assert await say(harness, 0, "all x") == []
        assert harness.seen == ["start"]

    story(Room, told)


def test_sockets_of_a_gateway_that_ended_are_closed_once() -> None:
    """At each beginning those of older incarnations get 1006; the event finds the row once, and others stay.

    What one asked for and is run after its end accepts nothing.
    """

    async def told(harness: OneOwner) -> None:
        harness.ingress.gateway = OLD_GATEWAY
        await upgrade(harness, 0, gateway=OLD_GATEWAY)
        harness.ingress.gateway = GATEWAY
        assert (await upgrade(harness, 2, gateway=OLD_GATEWAY)).outcome == UNAVAILABLE
        await upgrade(harness, 1)
        await harness.end()
        for _ in range(2):
            await harness.begin()
            await settle(harness)
            await harness.end()
        await harness.begin()
        assert [each for each in harness.seen if each != "start"] == [("0", 1006, False, ("red",), 1)]
        assert list(harness.owner.tables.sockets.of("Thing/a")) == [socket(1)]

    story(Room, told)


def test_on_a_shared_log_a_gateway_is_given_up_when_it_falls_silent() -> None:
    """As long as its heartbeats come its sockets stay; then they are closed with 1006, once."""

    async def told(harness: OneOwner) -> None:
        await upgrade(harness, 0, gateway=OLD_GATEWAY)
        await upgrade(harness, 1)
        place, _, name = OLD_GATEWAY.partition("/")
        for _ in range(15):
            await asyncio.sleep(3)
            harness.log.append(Topic.REPLIES, int(place), Record(name.encode(), b"", (HEARTBEAT_KIND,)))
        assert list(harness.owner.tables.sockets.of("Thing/a")) == [socket(0), socket(1)]
        await asyncio.sleep(2 * SILENT_S + 1)
        await settle(harness)
        assert [each for each in harness.seen if each != "start"] == [("0", 1006, False, ("red",), 1)]
        assert list(harness.owner.tables.sockets.of("Thing/a")) == [socket(1)]

    story(Room, told, shared=True)


@pytest.mark.parametrize("how", ["fails", "evicted", "begins anew"])
def test_a_listener_is_closed_with_its_instance(how: str) -> None:
    """Listener style lives in memory: 1012 when that goes, and no row is left."""

    async def told(harness: OneOwner) -> None:
        assert (await upgrade(harness, 0, "/pair")).status == 101
        assert texts(await say(harness, 0, "you")) == [(b"heard you", (0,))]
        if how == "fails":
            assert (await upgrade(harness, 1, "/refuse")).outcome == FAILED
        elif how == "evicted":
            await harness.call("b", "count")
        else:
            await harness.end()
            await harness.begin()
        await settle(harness)
        last = harness.ingress.shown[-1]
        assert (last.type, last.code, last.sockets) == (CLOSE_FRAME, 1012, (0,))
        assert harness.owner.tables.sockets.of("Thing/a") == {}
        assert harness.seen.count("start") == (2 if how == "evicted" else 1)

    story(Room, told, bounds=PartitionBounds(activations=1))


def test_a_listener_hears_its_close() -> None:
    """And the websockets of handler style do not list it."""

    async def told(harness: OneOwner) -> None:
        await upgrade(harness, 0, "/pair")
        assert (await harness.call("a", "count")).body == b'{"result":0}'
        event(harness, 0, CLOSED, "", code="1001", clean="1")
        await settle(harness)
        assert harness.seen[-1] == ("end", 1001)

    story(Room, told)


def test_an_auto_response_reaches_gateways_with_each_socket() -> None:
    """Those that are open when it is set, and those that come later; it is kept over a new reign."""

    async def told(harness: OneOwner) -> None:
        await upgrade(harness, 0)
        (frame,) = await say(harness, 0, "auto")
        assert (frame.type, frame.sockets) == (AUTO, (0,))
        await harness.end()
        await harness.begin()
        await upgrade(harness, 1)
        assert (harness.ingress.shown[-1].type, harness.ingress.shown[-1].sockets) == (AUTO, (1,))
        assert (await harness.call("a", "count")).body == b'{"result":2}'

    story(Room, told)


def test_an_attachment_has_its_bound() -> None:
    """16 KiB encoded; over it the turn is told."""

    async def told(harness: OneOwner) -> None:
        await upgrade(harness, 0)
        assert (await harness.call("a", "grow", MAX_ATTACHMENT_BYTES - 3)).outcome == OK
        over = await harness.call("a", "grow", MAX_ATTACHMENT_BYTES)
        assert over.error is not None
        assert over.error.code == "too-large"

    story(Room, told)


def test_only_perdure_says_what_happens_on_a_socket() -> None:
    """An event without the seal is a dead letter, and the object hears nothing."""

    async def told(harness: OneOwner) -> None:
        await upgrade(harness, 0)
        headers = (("kind", b"socket"), ("method", b"message"), ("path", socket(0).encode()))
        offset = harness.append_raw(b"Thing/a", b"all x", headers)
        await settle(harness)
        (dead,) = await harness.records(Topic.DEAD)
        assert dict(dead.headers)["reason"].startswith(MalformedCommand.code.encode())
        assert dict(dead.headers)["command"] == f"0:{offset}".encode()
        assert harness.ingress.shown == []

    story(Room, told)


def test_ids_of_one_gateway_sort_as_they_came() -> None:
    """And give back their number."""
    ids: list[Any] = [socket(number) for number in (0, 9, 10, 255, 256, 1 << 20)]
    assert ids == sorted(ids)
    assert [number_of(id_) for id_ in ids] == [0, 9, 10, 255, 256, 1 << 20]


class Narrow(Faults):
    """A log that takes few appends at once, as Kafka does when its queue is nearly full."""

    queued_max = 3


def test_a_lost_socket_that_the_log_refused_to_hear_of_is_closed_in_the_same_reign() -> None:
    """However many are refused at once: each close handler runs once, and each
    listener's socket is closed with 1012.
    """

    async def told(harness: OneOwner) -> None:
        for number in range(20):
            await upgrade(harness, number, "/pair" if number % 2 else "/red", gateway=OLD_GATEWAY)
        await harness.end()
        await harness.begin()
        began_s = asyncio.get_running_loop().time()
        await harness.until(lambda: not harness.owner.tables.sockets.of("Thing/a"))
        await settle(harness)
        closed = [each[0] for each in harness.seen if each != "start"]
        assert sorted(closed) == sorted(socket(number)[-1] for number in range(0, 20, 2))
        assert harness.owner.counts.claims == 1
        assert asyncio.get_running_loop().time() - began_s < 2 * SILENT_S, "of what one look found"

    story(Room, told, shared=True, faults=Narrow())


def test_listeners_of_an_instance_that_leaves_are_closed_though_the_log_is_full() -> None:
    """What an eviction could not append at once is appended when there is room."""

    async def told(harness: OneOwner) -> None:
        for number in range(10):
            await upgrade(harness, number, "/pair")
        await harness.call("b", "count")  # one activation is allowed
        await harness.until(lambda: not harness.owner.tables.sockets.of("Thing/a"))
        await settle(harness)
        last = [frame for frame in harness.ingress.shown if frame.type == CLOSE_FRAME]
        assert sorted(number for frame in last for number in frame.sockets) == list(range(10))

    story(Room, told, shared=True, faults=Narrow(), bounds=PartitionBounds(activations=1))


def test_sockets_are_listed_and_their_ends_appended_in_bounded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each partition so many in one step of the event loop, and so many under way."""
    monkeypatch.setattr(socket_events, "AT_ONCE", 4)
    monkeypatch.setattr(socket_watch, "LISTED_AT_ONCE", 4)

    async def told(harness: OneOwner) -> None:
        for number in range(30):
            await upgrade(harness, number, gateway=OLD_GATEWAY)
        harness.ingress.gateway = GATEWAY
        loop, true = asyncio.get_running_loop(), SocketRows.all
        listed, under_way, steps = 0, 0, []
        queue = harness.log._queues[harness.broker.streams[Topic.COMMANDS, 0]]

        def step_over() -> None:
            nonlocal listed, under_way
            steps.append(listed)
            listed, under_way = 0, max(under_way, len(queue))

        def counted(rows: SocketRows, behind: tuple[str, str] | None = None) -> Iterator[Any]:
            nonlocal listed
            for each in true(rows, behind):
                if not listed:
                    loop.call_soon(step_over)
                listed += 1
                yield each

        monkeypatch.setattr(SocketRows, "all", counted)
        await harness.end()
        await harness.begin()
        await harness.until(lambda: not harness.owner.tables.sockets.of("Thing/a"))
        assert sum(steps) >= 30
        assert max(steps) <= 2 * 4, "of the list at the start, and of the watch"
        assert 0 < under_way <= 4

    story(Room, told, shared=True)
