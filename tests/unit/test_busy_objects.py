"""Objects that are never at rest, and turns whose effects no log can hold."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.one_owner import OneOwner, story
from tests.unit.test_sockets import event, upgrade

from perdure.objects.durable import DurableObject
from perdure.objects.http import Request, Response
from perdure.objects.sockets import WebSocket
from perdure.schemas.errors import Refusal, Unavailable
from perdure.schemas.replies import FAILED, OK
from perdure.schemas.sockets import CLOSED, MESSAGE
from perdure.streams.log.memory.broker import Faults

SHARED = pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])


class Slow(Faults):
    """So that the next command is there before the one before is durable."""

    def delay_s(self, step: str) -> float:
        return {"append": 0.002, "ack": 0.004, "commit": 0.003, "sync": 0.003}.get(step, 0.0)


class Hot(DurableObject):
    async def alarm(self) -> None:
        self.env.seen.append(await self.state.get("n", None))

    async def arm(self) -> None:
        await self.state.set_alarm(timedelta(seconds=0))

    async def put(self, n: int) -> None:
        await self.state.put({"n": n, f"n{n}": n})

    async def again(self, n: int) -> list[Any]:
        """Written over, deleted, and everything deleted, while none of it is durable."""
        if n % 5 == 4:
            await self.state.delete_all()
        elif n % 3 == 2:
            await self.state.delete("x")
        else:
            await self.state.put({"x": n, f"y{n % 4}": n})
        return [await self.state.get("x"), await self.state.items(prefix="y")]


def test_an_alarm_of_an_object_that_is_never_at_rest_rings() -> None:
    """Turns under way that do not touch it do not hide it; and what they wrote does not pile up."""

    async def told(harness: OneOwner) -> None:
        last, most = harness.send("a", "arm"), 0
        for n in range(400):
            last = harness.send("a", "put", n)
            await asyncio.sleep(0.001)
            most = max(most, len(harness.owner.turns.activations["Thing/a"].in_flight_writes or ()))
        assert most > 1, "each turn was durable before the next: the story shows nothing"
        assert most < 100
        await harness.replies(last)
        assert len(harness.seen) == 1
        assert harness.seen[0] < 300

    story(Hot, told, faults=Slow())


def test_the_next_turn_sees_what_those_before_it_did_durable_or_not() -> None:
    """The same as in a dict, whatever part of it is durable."""

    async def told(harness: OneOwner) -> None:
        offsets = []
        for n in range(120):
            offsets.append(harness.send("a", "again", n))
            await asyncio.sleep(0.001)
        model: dict[str, int] = {}
        for n, reply in enumerate(await harness.replies(*offsets)):
            if n % 5 == 4:
                model = {}
            elif n % 3 == 2:
                model.pop("x", None)
            else:
                model |= {"x": n, f"y{n % 4}": n}
            ys = {name: model[name] for name in sorted(model) if name.startswith("y")}
            assert json.loads(reply.body)["result"] == [model.get("x"), ys], n

    story(Hot, told, faults=Slow())


class Markup(str):
    """As template libraries have it: a str, and not quite."""


class Careless(DurableObject):
    """Says what no log can hold."""

    async def refuse(self) -> None:
        raise Refusal("no", code="\ud800")

    async def fetch(self, request: Request) -> Response:
        if request.path == "/header":
            await self.state.put("x", 1)
            return Response("x", headers={"a": Markup("b")})
        await self.state.accept_websocket(request, tags=["\ud800"] if request.path == "/tag" else ())
        return Response.upgrade()

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        ws.send(json.loads(message)["text"])

    async def fine(self) -> int:
        return 1


@SHARED
def test_what_no_log_can_hold_fails_its_own_turn(shared: bool) -> None:
    """Half a surrogate pair in a frame, a tag or a code, a header that is no plain
    str: the partition goes on.
    """

    async def told(harness: OneOwner) -> None:
        replies = [await harness.call("a", "refuse"), await upgrade(harness, 1, "/tag")]
        assert (await upgrade(harness, 2)).outcome == OK
        event(harness, 2, MESSAGE, '{"text": "\\ud800"}')
        assert [reply.outcome for reply in replies] == [FAILED, FAILED]
        assert (await harness.call("a", "fine")).outcome == OK
        assert (await harness.call("b", "fine")).outcome == OK
        assert harness.errors == []

    story(Careless, told, shared=shared)


class Unlucky(DurableObject):
    """Cannot be done the first `env.harness.skew` times."""

    async def fetch(self, request: Request) -> Response:
        await self.state.accept_websocket(request)
        return Response.upgrade()

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        self._fail_at_first(str(message))
        await self.state.put("heard", message)

    async def websocket_close(self, ws: WebSocket, code: int, reason: str, was_clean: bool) -> None:
        self._fail_at_first("always")

    def _fail_at_first(self, what: str) -> None:
        self.env.seen.append(what)
        if what == "always" or self.env.seen.count(what) < 3:
            error = Unavailable("its partition does not serve")
            error.of_call = True
            raise error

    async def heard(self) -> Any:
        return await self.state.get("heard")


def test_what_nobody_sends_again_is_tried_again() -> None:
    """A message whose turn cannot be done is not lost, nor overtaken; the row of a
    closed socket goes all the same.
    """

    async def told(harness: OneOwner) -> None:
        await upgrade(harness, 1)
        event(harness, 1, MESSAGE, "words")
        reply = await harness.call("a", "heard")
        assert json.loads(reply.body) == {"result": "words"}
        assert harness.seen == ["words"] * 3
        event(harness, 1, CLOSED, "", code="1001", clean="1")
        await asyncio.sleep(60)
        assert harness.seen.count("always") == 7
        assert harness.owner.tables.sockets.of("Thing/a") == {}

    story(Unlucky, told)
