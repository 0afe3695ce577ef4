"""The examples, told as their authors would: with `perdure.testing`."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections import Counter as Counts
from pathlib import Path
from typing import Any

import pytest

from perdure import DurableObject, Refusal, Request, Response
from perdure.testing import SocketClosed, story, world

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(file: str) -> Any:
    """The module in a file of examples/."""
    spec = importlib.util.spec_from_file_location(f"example_{file}", EXAMPLES / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cls(file: str, name: str) -> type[DurableObject]:
    """A class of an example."""
    found: type[DurableObject] = getattr(example(file), name)
    return found


Counter = cls("counter", "Counter")


@story
async def test_a_counter_counts_through_crashes() -> None:
    """GET tells it, POST adds one, by RPC more; each counter has its own count, and a restart loses none."""
    async with world(Counter) as env:
        a, b = env.Counter.get("a"), env.Counter.get("b")
        assert (await a.fetch()).body == b'{"count":0}'
        assert [(await a.fetch(method="POST")).body for _ in range(2)] == [b'{"count":1}', b'{"count":2}']
        assert await a.increment(5) == 7
        await env.restart()
        assert (await a.fetch()).body == b'{"count":7}'
        assert (await b.fetch()).body == b'{"count":0}'


@story
async def test_two_thousand_posts_over_a_hundred_counters_end_exact() -> None:
    """All of them at once."""
    async with world(Counter) as env:
        counters = [env.Counter.get(f"c{n}") for n in range(100)]
        await asyncio.gather(*(counter.fetch(method="POST") for _ in range(20) for counter in counters))
        await env.restart()
        assert [env.state(counter) for counter in counters] == [{"count": 20}] * 100


@story
async def test_a_document_shows_each_edit_to_all_in_one_order() -> None:
    """What was shown is kept, through a crash too; what is no JSON closes its own socket."""
    async with world(cls("document", "Document")) as env:
        page = env.Document.get("page")
        one, two = [await env.connect(page) for _ in range(2)]
        await one.send('{"n": 1}')
        await two.send('{"n": 2}')
        seen = [await one.receive() for _ in range(2)]
        assert seen == [await two.receive() for _ in range(2)]
        await one.send("no JSON")
        with pytest.raises(SocketClosed) as closed:
            await one.receive()
        assert closed.value.code == 1007
        await env.restart()
        with pytest.raises(SocketClosed) as died:
            await two.receive()
        assert died.value.code == 1006
        kept = json.loads((await page.fetch("/")).body)["edits"]
        assert [json.loads(each) for each in seen] == kept


@story
async def test_a_hundred_requests_a_minute_pass() -> None:
    """Of 500 at once 100; the next when the minute is over; every user has a quota."""
    async with world(cls("rate_limiter", "RateLimiter")) as env:
        limiter = env.RateLimiter.get("all")

        async def ask(user: str) -> int:
            return (await limiter.fetch(headers={"user-id": user})).status

        assert Counts(await asyncio.gather(*(ask("a") for _ in range(500)))) == {200: 100, 429: 400}
        assert await ask("b") == 200
        await env.advance(59)
        assert await ask("a") == 429
        await env.advance(1)
        assert await ask("a") == 200


@story
async def test_events_are_counted_by_name() -> None:
    """GET lists them all, however many pages of names that is."""
    async with world(cls("analytics", "Analytics")) as env:
        site = env.Analytics.get("site")
        for event in [*(f"e{n}" for n in range(1_100)), "e7", "e7"]:
            assert (await site.fetch(f"/{event}", method="POST")).body == b"tracked"
        counts = json.loads((await site.fetch()).body)
        assert (len(counts), counts["e6"], counts["e7"]) == (1_100, 1, 3)


@story
async def test_a_session_ends_after_a_day_and_leaves_nothing() -> None:
    """Hidden at once, removed by itself."""
    async with world(cls("session_manager", "SessionManager")) as env:
        site = env.SessionManager.get("site")
        await site.fetch("/s1", method="POST", json={"user": 1})
        await env.advance(86_399)
        assert (await site.fetch("/s1")).body == b'{"user":1}'
        await env.restart()
        await env.advance(60)
        assert (await site.fetch("/s1")).body == b"{}"
        assert env.state(site) == {}


@story
async def test_a_lock_is_one_holders_and_frees_itself() -> None:
    """One of 100; renewed by its holder it stays, forgotten it goes; the next token is greater."""
    async with world(cls("coordinator", "Coordinator")) as env:
        locks = env.Coordinator.get("locks")

        async def post(path: str, token: str = "") -> Response:
            headers = {"lock-name": "l", "lock-token": token}
            return await locks.fetch(path, method="POST", headers=headers)

        race = await asyncio.gather(*(post("/lock") for _ in range(100)))
        assert Counts(each.status for each in race) == {200: 1, 409: 99}
        token = dict(next(each for each in race if each.status == 200).headers)["lock-token"]
        await env.advance(20)
        assert (await post("/renew", token)).status == 200
        await env.advance(20)
        assert (await post("/lock")).status == 409
        await env.advance(11)
        taken = await post("/lock")
        assert int(dict(taken.headers)["lock-token"]) > int(token)
        assert (await post("/release", token)).status == 409


@story
async def test_a_log_keeps_events_in_order_in_pages() -> None:
    """Each with its time."""
    async with world(cls("event_log", "EventLog")) as env:
        log = env.EventLog.get("log")
        for n in range(10):
            await log.fetch("/", method="POST", json={"n": n})
            await env.advance(1)
        events = json.loads((await log.fetch("/")).body)
        assert [each["n"] for each in events] == list(range(10))
        assert events == sorted(events, key=lambda each: each["timestamp"])
        assert json.loads((await log.fetch("/?after=3&limit=4")).body) == events[3:7]
        with pytest.raises(Refusal, match="numbers"):
            await log.fetch("/?after=x")


@story
async def test_a_safe_object_answers_although_its_storage_fails() -> None:
    """503 and why; what it wrote before stays, and the others go on."""
    async with world(cls("safe_object", "SafeObject")) as env:
        box, other = env.SafeObject.get("box"), env.SafeObject.get("other")
        await box.fetch("/", method="POST", json=1)
        await env.break_storage(box)
        answer = await box.fetch("/")
        assert answer.status == 503
        assert json.loads(answer.body)["error"] == "Service unavailable"
        assert (await other.fetch("/", method="POST", json=2)).body == b"2"
        env.heal_storage(box)
        assert (await box.fetch("/")).body == b"1"


@story
async def test_items_are_tidied_up_by_an_alarm() -> None:
    """When the first is past, and again for the next."""
    async with world(cls("cleanup_object", "CleanupObject")) as env:
        attic = env.CleanupObject.get("attic")
        await attic.fetch("/a", method="POST", body="A")
        await env.advance(1_800)
        await attic.fetch("/b", method="POST", body="B")
        await env.restart()
        await env.advance(1_801)
        assert list(env.state(attic)) == ["b"]
        await env.advance(1_801)
        assert env.state(attic) == {}
        assert env.alarms(attic) == {}


@story
async def test_a_scheduled_object_runs_once_however_often_the_process_dies() -> None:
    """An alarm a minute ahead, three crashes before and one after."""
    async with world(cls("scheduled_object", "ScheduledObject")) as env:
        job = env.ScheduledObject.get("job")
        await job.fetch("/")
        assert list(env.alarms(job)) == ["default"]
        for _ in range(3):
            await env.advance(15)
            await env.restart()
        assert env.state(job) == {}
        await env.advance(20)
        await env.restart()
        await env.advance(120)
        assert env.state(job) == {"runs": 1}


@story
async def test_an_echo_comes_back_in_both_styles() -> None:
    """Methods outlive a crash of the object, listeners end with it: 1012."""
    async with world(cls("echo", "Echo")) as env:
        room = env.Echo.get("room")
        methods, listener = await env.connect(room, "/methods"), await env.connect(room, "/listener")
        for ws in (methods, listener):
            for data in ("text", b"bytes"):
                await ws.send(data)
                assert await ws.receive() == data
        await env.crash(room)
        with pytest.raises(SocketClosed) as closed:
            await listener.receive()
        assert closed.value.code == 1012
        await methods.send("still there")
        assert await methods.receive() == "still there"


@story
async def test_high_usage_is_noticed_once() -> None:
    """The count is in the object's own state."""
    async with world(cls("metered_object", "MeteredObject"), vars={"HIGH_USAGE": 3}) as env:
        one = env.MeteredObject.get("one")
        for _ in range(5):
            await one.fetch("/")
            await env.advance(1)
        assert env.state(one)["metrics:requests"] == 5
        assert env.state(one)["metrics:high_usage_at"] < env.now - 2_000


@story
async def test_memory_is_lost_and_state_is_not() -> None:
    """`start` runs once for each stay in memory."""
    async with world(cls("session_cache", "SessionCache")) as env:
        one = env.SessionCache.get("one")
        for _ in range(2):
            await one.fetch("/")
        await env.crash(one)
        assert json.loads((await one.fetch("/")).body) == {"in_memory": 1, "persistent": 3, "stays": 2}


@story
async def test_a_transfer_is_whole_or_nothing() -> None:
    """The refused one had written to its target already."""
    async with world(cls("ledger", "Ledger")) as env:
        bank = env.Ledger.get("bank")
        await bank.deposit("a", 10)
        assert await bank.transfer("a", "b", 4) == {"a": 6, "b": 4}
        with pytest.raises(Refusal) as refused:
            await bank.transfer("a", "b", 7)
        assert refused.value.detail == {"missing": 1}
        assert await bank.balances() == {"a": 6, "b": 4}


@story
async def test_a_cache_asks_its_origin_once() -> None:
    """100 at once are one request; an hour later it asks again; a failure is not kept."""
    asked: list[str] = []

    async def origin(request: Request) -> Response:
        asked.append(request.path)
        return Response("no", 500) if "bad" in request.path else Response(f"answer {len(asked)}")

    variables = {"ORIGIN_URL": "http://origin/"}
    async with world(cls("distributed_cache", "DistributedCache"), vars=variables, outside=origin) as env:
        edge = env.DistributedCache.get("edge")

        async def get(key: str) -> bytes:
            return (await edge.fetch(headers={"cache-key": key})).body

        assert set(await asyncio.gather(*(get("k") for _ in range(100)))) == {b"answer 1"}
        await env.advance(3_599)
        assert await get("k") == b"answer 1"
        await env.advance(1)
        assert await get("k") == b"answer 2"
        for _ in range(2):
            assert b"500" in await get("bad")
        assert [each for each in asked if "bad" in each] == ["http://origin/bad"] * 2
