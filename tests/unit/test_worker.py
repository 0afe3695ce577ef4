"""What a Worker sends, on virtual time: its response waits until that is durable,
and says so if it may not be.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.owners import Owners, story

from perdure.api.gateway import Gateway
from perdure.api.problems import Problem
from perdure.api.worker.outgoing import Outgoing
from perdure.api.worker.worker import Worker
from perdure.objects.durable import DurableObject
from perdure.objects.http import Request, Response
from perdure.schemas.errors import TurnEnded
from perdure.streams.log.base import Topic


class Thing(DurableObject):
    async def add(self, by: int) -> None:
        await self.state.put("count", await self.state.get("count", 0) + by)


async def answer(harness: Owners, function: Any, client_key: str | None = None) -> Problem:
    """What a Worker's response comes to."""
    gateway = Gateway(harness.log, node="n", deadline_s=30, clock_ms=harness.clock_ms)
    await gateway.start(harness.owners)
    way = Outgoing(body_bytes=1, timeout_s=1)
    worker = Worker(
        function,
        harness.registry.env,
        gateway,
        outgoing=way,
        new_uuid=lambda: "u",
        deadline_s=30,
    )
    forever: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return await worker.answer(Request("POST"), client_key, "", forever)


def durable(harness: Owners) -> int:
    """How many commands are."""
    return sum(harness.broker.streams[Topic.COMMANDS, p].durable for p in range(harness.partitions))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("raises", [False, True])
def test_a_response_waits_for_what_was_sent(shared: bool, raises: bool) -> None:
    """It leaves when every send is durable, an error's too; then each takes effect."""

    async def told(harness: Owners) -> None:
        harness.faults.delays = {"append": 0.5, "ack": 0.5, "sync": 0.5}

        async def fetch(request: Request, env: Any) -> Response:
            env.THINGS.get("a").send.add(1)
            env.THINGS.get("b").send.add(2)
            if raises:
                raise ValueError
            return Response(status=202)

        assert (await answer(harness, fetch))[0] == (500 if raises else 202)
        assert durable(harness) == 2
        harness.faults.delays = {}
        await harness.quiet()
        assert (harness.value("a"), harness.value("b")) == (1, 2)

    story(Thing, told, shared=shared)


def test_a_send_that_may_be_lost_is_no_success() -> None:
    """The log does not say whether it took the send: 504, whatever the Worker returned."""

    async def told(harness: Owners) -> None:
        harness.faults.next = ["lost"]

        async def fetch(request: Request, env: Any) -> Response:
            env.THINGS.get("a").send.add(1)
            return Response("sent")

        status, _, body = await answer(harness, fetch)
        assert (status, b"outcome-unknown" in body) == (504, True)

    story(Thing, told, shared=True, check=False)


def test_one_that_ignores_its_cancellation_is_not_waited_for() -> None:
    """At the deadline the client is told, and what the Worker still asks goes nowhere."""

    async def told(harness: Owners) -> None:
        raised: list[str] = []

        async def fetch(request: Request, env: Any) -> Response:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                await asyncio.sleep(5)
            try:
                env.THINGS.get("a").send.add(1)
            except TurnEnded as error:
                raised.append(type(error).__name__)
            return Response("late")

        began_s = asyncio.get_running_loop().time()
        assert (await answer(harness, fetch))[0] == 504
        assert asyncio.get_running_loop().time() - began_s < 31
        await harness.until(lambda: raised)
        assert raised == ["TurnEnded"]
        assert durable(harness) == 0

    story(Thing, told)


def test_a_request_repeated_under_its_key_asks_each_once_in_any_order() -> None:
    """Calls side by side, of which one is given up and made again; equal ones are counted."""

    async def told(harness: Owners) -> None:
        waits = iter((0.0, 0.2, 0.2, 0.0))

        async def fetch(request: Request, env: Any) -> Response:
            async def line(name: str, wait_s: float) -> None:
                await asyncio.sleep(wait_s)
                for _ in range(2):
                    await env.THINGS.get(name).add(1)

            async def hurried() -> None:
                for seconds in (0.0001, 10):
                    try:
                        await asyncio.wait_for(env.THINGS.get("h").add(1), seconds)
                        break
                    except TimeoutError:
                        harness.seen.append("gave up")

            await asyncio.gather(*(line(name, next(waits)) for name in ("a", "b")), hurried())
            return Response(env.THINGS.new_unique_id().name)

        first, second = [await answer(harness, fetch, "k") for _ in range(2)]
        assert first == second
        assert (first[0], harness.value("a"), harness.value("b"), harness.value("h")) == (200, 2, 2, 1)

    story(Thing, told, shared=True)
