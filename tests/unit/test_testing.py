"""`perdure.testing`: what a world does is what a server does, without its processes and its time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from perdure import DurableObject, PerdureError, Refusal, Request, Response
from perdure.schemas.errors import (
    ConfigError,
    Expired,
    HandlerFailed,
    InvalidArguments,
    KeyConflict,
    OutcomeUnknown,
    Runaway,
    StorageFailed,
    Unavailable,
    UnknownMethod,
)
from perdure.testing import World, run, story, world


class Thing(DurableObject):
    async def start(self) -> None:
        self.lives = 0

    async def fetch(self, request: Request) -> Response:
        told = {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "header": request.headers.get("x-mark"),
            "body": await request.text(),
        }
        return Response.json(told, 201, {"x-answer": "yes"})

    async def add(self, by: int = 1, *, wait_s: float = 0) -> int:
        count: int = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        await asyncio.sleep(wait_s)
        return count

    async def memory(self) -> int:
        self.lives += 1
        return self.lives

    async def now(self) -> int:
        return self.state.now

    async def refuse(self) -> None:
        raise Refusal("not today", code="closed", detail={"until": 5})

    async def fail(self) -> None:
        await self.state.put("count", -1)
        raise ValueError("no")

    async def caught(self) -> str:
        try:
            await self.state.get("count")
        except StorageFailed:
            return "caught"
        return "read"

    async def told(self) -> Any:
        self.env.HEARD.append(self.env.WHAT)
        return self.env.WHAT


@story
async def test_methods_and_requests_reach_an_object() -> None:
    """A call gives its result, a fetch its response with status, headers and body."""
    async with world(Thing) as env:
        thing = env.Thing.get("a")
        assert [await thing.add(), await thing.add(by=4)] == [1, 5]
        response = await thing.fetch("/x?y=1", method="put", headers={"X-Mark": "m"}, body="text")
        assert (response.status, dict(response.headers)["x-answer"]) == (201, "yes")
        assert response.body == (b'{"method":"PUT","path":"/x","query":{"y":"1"},"header":"m","body":"text"}')
        sent = await thing.fetch(Request("POST", "/y", (), b"body"))
        assert b'"path":"/y"' in sent.body
        assert env.state(thing) == {"count": 5}
        assert env.state(env.Thing.get("other")) == {}


class Listing(DurableObject):
    async def fetch(self, request: Request) -> Response:
        return Response.json(sorted(request.headers))


@story
async def test_an_object_sees_of_a_request_what_it_would_in_a_server() -> None:
    """No credentials, and nothing that concerns the connection."""
    async with world(Listing) as env:
        secret = {"Authorization": "Bearer x", "cookie": "y", "Connection": "close", "X-Mark": "m"}
        listing = env.Listing.get("a")
        assert (await listing.fetch("/", headers=secret)).body == b'["x-mark"]'
        assert (await listing.fetch(Request("GET", "/", tuple(secret.items())))).body == b'["x-mark"]'


@story
async def test_errors_are_raised_as_what_they_are() -> None:
    """A refusal with code and detail, a failure that left no trace, a wrong call, a deadline."""
    async with world(Thing, config="deadline_s = 2.0") as env:
        thing = env.Thing.get("a")
        with pytest.raises(Refusal, match="not today") as refused:
            await thing.refuse()
        assert (refused.value.code, refused.value.detail) == ("closed", {"until": 5})
        with pytest.raises(HandlerFailed, match="ValueError: no"):
            await thing.fail()
        with pytest.raises(InvalidArguments):
            await thing.add("many")
        with pytest.raises(UnknownMethod):
            await thing.subtract()
        with pytest.raises(Expired):
            await thing.add(wait_s=3)
        assert env.state(thing) == {}


def test_time_passes_at_once_and_only_when_asked() -> None:
    """A day takes no time outside; inside it is a day, on the log too."""

    async def main() -> None:
        async with world(Thing) as env:
            before, asked = env.now, await env.Thing.get("a").now()
            await env.advance(86_400)
            assert env.now - before == pytest.approx(86_400_000, abs=100)
            assert await env.Thing.get("a").now() - asked == pytest.approx(86_400_000, abs=100)

    began_s = time.monotonic()
    run(main())
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("seed", range(10))
def test_what_was_answered_survives_a_restart(seed: int) -> None:
    """Whatever the store had written or flushed by then; attributes do not survive."""

    async def main() -> None:
        async with world(Thing, seed=seed) as env:
            things = [env.Thing.get(f"n{n}") for n in range(5)]
            for turn in range(1, 6):
                assert [await thing.add() for thing in things] == [turn] * 5
                assert await things[0].memory() == 1
                await env.restart()
                assert [env.state(thing) for thing in things] == [{"count": turn}] * 5

    run(main())


@story
async def test_who_waits_when_the_process_dies_is_told_that_the_outcome_is_unknown() -> None:
    """The command runs again in the next process, once, if it was on the log."""
    async with world(Thing) as env:
        thing = env.Thing.get("a")
        waiting = asyncio.ensure_future(thing.add(wait_s=5))
        await env.advance(1)
        await env.restart()
        with pytest.raises(OutcomeUnknown):
            await waiting
        await env.advance(10)
        assert env.state(thing) == {"count": 1}


@story
async def test_an_object_can_be_forgotten_alone() -> None:
    """Its attributes go, its state and its neighbours' attributes stay; what it works on is waited for."""
    async with world(Thing) as env:
        one, other = env.Thing.get("one"), env.Thing.get("other")
        assert [await one.memory(), await one.memory(), await other.memory()] == [1, 2, 1]
        adding = asyncio.ensure_future(one.add(wait_s=1))
        await asyncio.sleep(0)
        await env.crash(one)
        assert await adding == 1
        assert [await one.memory(), await other.memory()] == [1, 2]


@story
async def test_an_idempotency_key_is_spent_once() -> None:
    """The same request again gets the stored answer, another one is refused."""
    async with world(Thing) as env:
        thing = env.Thing.get("a")
        keyed = thing.keyed("k")
        assert [await keyed.add(2), await keyed.add(2), await thing.add(1)] == [2, 2, 3]
        with pytest.raises(KeyConflict):
            await keyed.add(7)


@story
async def test_storage_can_be_broken_for_one_object() -> None:
    """Its reads fail, also where its handler catches that; its neighbour goes on; healed, it is as before."""
    async with world(Thing) as env:
        one, other = env.Thing.get("one"), env.Thing.get("other")
        await one.add(3)
        await other.add(4)
        await env.break_storage(one)
        with pytest.raises(Unavailable, match="could not be read"):
            await one.add()
        assert await one.caught() == "caught"
        assert await other.add() == 5
        env.heal_storage(one)
        assert await one.add() == 4


@story
async def test_objects_see_vars_of_any_kind_and_bindings_name_them() -> None:
    """A double in `vars` is the very object; a binding and a class name reach the same objects."""
    heard: list[str] = []
    text = '[vars]\nWHAT = "file"\n[env.night.vars]\nWHAT = "night"\n'
    async with world(
        Thing, vars={"HEARD": heard}, bindings={"THINGS": "Thing"}, config=text, env="night"
    ) as env:
        assert await env.THINGS.get("a").told() == "night"
        assert heard == ["night"]
        await env.Thing.get("b").add()
        assert env.state(env.THINGS.get("b")) == {"count": 1}
        with pytest.raises(AttributeError, match="it has: Thing, THINGS"):
            _ = env.NOTHING


@story
async def test_a_world_that_does_not_fit_together_is_told() -> None:
    """As at the start of a server."""
    with pytest.raises(ConfigError, match="Nobody"):
        world(Thing, bindings={"X": "Nobody"})
    with pytest.raises(ConfigError):
        world()


def test_a_loop_of_real_time_is_refused_with_the_remedy() -> None:
    """Else `advance(3600)` would take an hour."""

    async def main() -> World:
        return world(Thing)

    with pytest.raises(RuntimeError, match=r"@perdure\.testing\.story"):
        asyncio.run(main())


def test_the_same_seed_brings_the_same_run() -> None:
    """All that two runs log is equal, byte by byte."""

    async def main() -> list[Any]:
        async with world(Thing, seed=3) as env:
            for n in range(5):
                await env.Thing.get(f"n{n % 2}").add(wait_s=0.1)
                await env.restart()
            return [
                (each.offset, each.time_ms, each.key, each.value)
                for stream in env._broker.streams.values()
                for each in stream.records
            ]

    assert run(main()) == run(main())


class TestWithFixtures:
    """A story may be a method, and takes fixtures."""

    @story
    async def test_a_story_gets_its_fixtures(self, tmp_path: Path) -> None:
        """The decorator keeps the signature."""
        assert tmp_path.name
        async with world(Thing) as env:
            assert await env.Thing.get("a").add() == 1


def test_the_example_of_the_docstring_runs() -> None:
    """What the module shows is what it does."""
    text = __import__("perdure.api.testing.world", fromlist=["x"]).__doc__ or ""
    code = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
    code = code.replace("from app import Counter", "from tests.unit.test_examples import Counter")
    assert "assert env.state(alice)" in code
    scope: dict[str, Any] = {}
    exec(compile(code, "docstring", "exec"), scope)  # noqa: S102 - our own text
    scope["test_a_count_survives_a_crash"]()


def test_all_errors_are_perdures() -> None:
    """Who catches `PerdureError` misses none of what a stub raises."""
    assert issubclass(HandlerFailed, PerdureError)


class Wrong(DurableObject):
    async def spin(self) -> None:
        while True:
            pass

    async def slip(self) -> None:
        raise KeyError("nope")

    async def ask(self) -> int:
        result: int = await self.env.Thing.get("a").add(2)
        return result


def test_a_handler_that_spins_is_interrupted_in_a_world_too() -> None:
    """A test of it ends, and says so."""

    async def main() -> None:
        async with world(Wrong, config="[limits]\nstep_s = 0.2") as env:
            with pytest.raises(Runaway):
                await env.Wrong.get("a").spin()

    run(main())


def test_a_handler_that_raises_is_told_of_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Which object, what it was asked, what it raised, and where in the user's file."""
    structlog.reset_defaults()  # whoever ran before may have turned it to somewhere else

    async def main() -> None:
        async with world(Wrong) as env:
            for _ in range(30):
                with pytest.raises(HandlerFailed):
                    await env.Wrong.get("a").slip()

    run(main())
    lines = [line for line in "".join(capsys.readouterr()).splitlines() if "a handler failed" in line]
    assert len(lines) == 10, "a flood is not printed"
    line = Wrong.slip.__code__.co_firstlineno + 1
    for part in ("Wrong/a", "call slip", "KeyError: 'nope'", f"test_testing.py:{line}"):
        assert part in lines[0]


@story
async def test_objects_call_each_other_by_the_names_of_their_classes() -> None:
    """No binding is needed."""
    async with world(Wrong, Thing) as env:
        assert await env.Wrong.get("a").ask() == 2
