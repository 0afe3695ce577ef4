"""Location hints: recorded with the object, once, and without any other effect."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.owners import Owners, story

from perdure.api.gateway import Gateway
from perdure.api.worker.outgoing import Outgoing
from perdure.api.worker.worker import Worker
from perdure.objects.durable import DurableObject
from perdure.objects.http import Request, Response
from perdure.objects.location import PLACE
from perdure.schemas.errors import Refusal
from perdure.schemas.replies import REFUSED


class Thing(DurableObject):
    async def where(self) -> str | None:
        return self.state.location_hint

    async def ask(self, name: str, hint: str | None) -> Any:
        return await self.env.THINGS.get(name, location_hint=hint).where()

    async def tell(self, name: str, hint: str) -> None:
        self.env.THINGS.get(name, location_hint=hint).send.where()

    async def ask_for_no(self, name: str, hint: str) -> None:
        await self.env.THINGS.get(name, location_hint=hint).refuse()

    async def refuse(self) -> None:
        raise Refusal("no")

    async def names(self) -> list[str]:
        return list(await self.state.items())

    async def forget(self) -> None:
        await self.state.delete_all()


def test_the_first_hint_is_recorded_with_its_object() -> None:
    """By a call, a read too, or a send; it stays after a crash, later ones change
    nothing, and nobody sees its row.
    """

    async def told(harness: Owners) -> None:
        assert await harness.result("a", "ask", "b", "weur") == b'"weur"'
        await harness.call("a", "tell", "c", "oc")
        await harness.until(lambda: harness.value("c", PLACE))
        assert (harness.value("b", PLACE), harness.value("c", PLACE), harness.value("a", PLACE)) == (
            "weur",
            "oc",
            None,
        )
        await harness.crash()
        await harness.begin()
        assert await harness.result("a", "ask", "b", "enam") == b'"weur"'
        assert await harness.result("a", "ask", "b", None) == b'"weur"'
        assert await harness.result("b", "where") == b'"weur"'
        assert await harness.result("b", "names") == b"[]"
        assert [each.puts.keys() for each in await harness.entries("b")] == [{PLACE}, set(), set()]
        await harness.call("b", "forget")
        assert await harness.result("b", "where") == b"null"

    story(Thing, told)


def test_a_turn_that_does_not_commit_records_no_hint() -> None:
    """As if it had not run; the next one's hint is the first."""

    async def told(harness: Owners) -> None:
        assert (await harness.call("a", "ask_for_no", "b", "weur")).outcome == REFUSED
        assert await harness.result("b", "where") == b"null"
        assert await harness.result("a", "ask", "b", "enam") == b'"enam"'

    story(Thing, told)


def test_a_worker_s_hint_is_recorded() -> None:
    """With what it sends; tests/integration/test_worker.py has what it asks."""

    async def told(harness: Owners) -> None:
        gateway = Gateway(
            harness.log, node="n", deadline_s=30, clock_ms=harness.clock_ms, seal=harness.ports.transport.seal
        )
        await gateway.start(harness.owners)

        async def fetch(request: Request, env: Any) -> Response:
            env.THINGS.get("sent", location_hint="afr").send.where()
            return Response()

        way = Outgoing(body_bytes=1, timeout_s=1)
        worker = Worker(
            fetch, harness.registry.env, gateway, outgoing=way, new_uuid=lambda: "u", deadline_s=30
        )
        forever: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        assert (await worker.answer(Request("POST"), None, "", forever))[0] == 200
        await harness.until(lambda: harness.value("sent", PLACE))
        assert harness.value("sent", PLACE) == "afr"

    story(Thing, told)


@pytest.mark.parametrize("wrong", ["", "x" * 33, "we\nur", "Straße", 5])
def test_a_hint_is_a_word(wrong: Any) -> None:
    """Anything else is told at once, where it is given."""

    async def told(harness: Owners) -> None:
        with pytest.raises(ValueError, match="location_hint"):
            harness.registry.env.THINGS.get("a", location_hint=wrong)

    story(Thing, told)
