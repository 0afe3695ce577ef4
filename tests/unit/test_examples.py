"""The examples, told as their authors would: with `perdure.testing`."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections import Counter as Counts
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Any

import pytest

from perdure import DurableObject, Refusal, Request, Response, StorageFailed, Unavailable
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


Counter: type[DurableObject] = example("counter").Counter


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


SafeObject: Any = example("safe_object").SafeObject


class Insistent(SafeObject):  # type: ignore[misc]  # the example is loaded at run time
    """It writes although it could not read."""

    async def insist(self) -> str:
        try:
            return str(await self.state.get("data"))
        except StorageFailed:
            await self.state.put("data", "in spite of it")
        return "put"


# --8<-- [start:safe]
@story
async def test_a_safe_object_says_that_its_storage_fails() -> None:
    """503 with why; a put after the failure raises; then all is as it was before."""
    async with world(Insistent) as env:
        box = env.Insistent.get("box")
        await box.fetch(method="POST", body=b'"before"')
        await env.break_storage(box)
        answer = await box.fetch()
        assert answer.status == 503
        assert b"Service unavailable" in answer.body
        with pytest.raises(Unavailable, match="could not be read"):
            await box.insist()
        env.heal_storage(box)
        assert await box.insist() == "before"


# --8<-- [end:safe]


# True durations: what the stories over HTTP shorten to seconds takes its full time here, at once


def kind(file: str, name: str) -> type[DurableObject]:
    made: type[DurableObject] = getattr(example(file), name)
    return made


async def statuses(asked: Iterable[Awaitable[Response]]) -> Counts[int]:
    return Counts(answer.status for answer in await asyncio.gather(*asked))


# --8<-- [start:rate_limiter]
@story
async def test_a_hundred_of_five_hundred_requests_pass_in_a_minute() -> None:
    """Exactly; a restart gives nobody more; the next minute gives a hundred again; each user has a quota."""
    async with world(kind("rate_limiter", "RateLimiter")) as env:
        limiter = env.RateLimiter.get("all")
        ann = {"user-id": "ann"}
        assert await statuses(limiter.fetch(headers=ann) for _ in range(500)) == {200: 100, 429: 400}
        await env.advance(30)
        await env.restart()
        late = await limiter.fetch(headers=ann)
        assert late.status == 429
        assert 29 <= int(dict(late.headers)["retry-after"]) <= 30
        assert (await limiter.fetch(headers={"user-id": "ben"})).status == 200
        await env.advance(30)
        assert await statuses(limiter.fetch(headers=ann) for _ in range(500)) == {200: 100, 429: 400}


# --8<-- [end:rate_limiter]


# --8<-- [start:sessions]
@story
async def test_a_session_lasts_a_day_and_leaves_nothing() -> None:
    """Across a restart; its end removes it from the state although nobody asks."""
    async with world(kind("session_manager", "SessionManager")) as env:
        site = env.SessionManager.get("site")
        await site.fetch("/s1", method="POST", json={"user": "ann"})
        await env.advance(86_000)
        await env.restart()
        assert (await site.fetch("/s1")).body == b'{"user":"ann"}'
        await env.advance(500)
        assert env.state(site) == {}
        assert (await site.fetch("/s1")).body == b"{}"


# --8<-- [end:sessions]


# --8<-- [start:lock]
@story
async def test_one_of_a_hundred_gets_the_lock_for_thirty_seconds() -> None:
    """The others are told 409; renewed it is held for longer; then it is free, and
    its next token is higher.
    """
    async with world(kind("coordinator", "Coordinator")) as env:
        locks = env.Coordinator.get("locks")

        def post(path: str, token: str = "") -> Awaitable[Response]:
            return locks.fetch(path, method="POST", headers={"lock-name": "x", "lock-token": token})

        answers = await asyncio.gather(*(post("/lock") for _ in range(100)))
        assert Counts(answer.status for answer in answers) == {200: 1, 409: 99}
        (token,) = (dict(answer.headers)["lock-token"] for answer in answers if answer.status == 200)
        await env.advance(20)
        assert (await post("/renew", token)).status == 200
        await env.advance(20)
        await env.restart()
        assert (await post("/lock")).status == 409
        await env.advance(11)
        again = await post("/lock")
        assert (again.status, int(dict(again.headers)["lock-token"])) == (200, int(token) + 1)
        assert (await post("/renew", token)).status == 409


# --8<-- [end:lock]


# --8<-- [start:scheduled]
@story
async def test_an_alarm_of_a_minute_runs_once_across_three_restarts() -> None:
    """Two before it is due, one right when it is; never early."""
    async with world(kind("scheduled_object", "ScheduledObject")) as env:
        job = env.ScheduledObject.get("job")
        await job.fetch(method="POST")
        for wait_s in (25, 34.5):
            await env.advance(wait_s)
            await env.restart()
            assert env.state(job) == {}
        await env.advance(0.5)
        await env.restart()
        await env.advance(3600)
        assert env.state(job) == {"runs": 1}


# --8<-- [end:scheduled]


# --8<-- [start:cleanup]
@story
async def test_items_are_cleaned_up_after_an_hour_each() -> None:
    """By one alarm, which goes on to the next item."""
    async with world(kind("cleanup_object", "CleanupObject")) as env:
        attic = env.CleanupObject.get("attic")
        for name in ("/a", "/b"):
            await attic.fetch(name, method="POST", body=name)
            await env.advance(1800)
        assert list(env.state(attic)) == ["b"]
        await env.restart()
        await env.advance(1801)
        assert env.state(attic) == {}


# --8<-- [end:cleanup]


class Sleepy(DurableObject):
    async def add(self) -> None:
        count = await self.state.get("count", 0)
        await asyncio.sleep(0.02)
        await self.state.put("count", count + 1)


@story
async def test_a_turn_has_its_object_for_itself_while_it_awaits() -> None:
    """Eleven at once that sleep 20 ms between get and put end at eleven, and took eleven times as long."""
    async with world(Sleepy) as env:
        sleepy = env.Sleepy.get("one")
        await asyncio.gather(*(sleepy.add() for _ in range(11)))
        assert env.state(sleepy) == {"count": 11}


Document: Any = example("document").Document


class Page(Document):  # type: ignore[misc]  # the example is loaded at run time
    async def add(self, edit: int) -> None:
        await self._add({"edit": edit})


@story
async def test_the_three_thousandth_edit_of_a_document_costs_what_the_first_did() -> None:
    """Each lies under a name of its own, none in a list that grows; GET gives all
    of them, or those behind one.
    """
    async with world(Page) as env:
        page = env.Page.get("page")
        for number in range(3000):
            await page.add(number)
        await env.restart()
        state = env.state(page)
        assert len(state) == 3001
        assert max(len(str(value)) for value in state.values()) < 20
        edits = json.loads((await page.fetch()).body)["edits"]
        assert [each["edit"] for each in edits] == list(range(3000))
        rest = json.loads((await page.fetch("/?after=2998")).body)["edits"]
        assert [each["edit"] for each in rest] == [2998, 2999]


@story
async def test_a_document_shows_each_edit_to_all_in_one_order() -> None:
    """What was shown is kept, through a crash too; what is no JSON closes its own socket."""
    async with world(kind("document", "Document")) as env:
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
async def test_events_are_counted_by_name() -> None:
    """GET lists them all, however many pages of names that is."""
    async with world(kind("analytics", "Analytics")) as env:
        site = env.Analytics.get("site")
        for event in [*(f"e{n}" for n in range(1_100)), "e7", "e7"]:
            assert (await site.fetch(f"/{event}", method="POST")).body == b"tracked"
        counts = json.loads((await site.fetch()).body)
        assert (len(counts), counts["e6"], counts["e7"]) == (1_100, 1, 3)


@story
async def test_a_log_keeps_events_in_order_in_pages() -> None:
    """Each with its time."""
    async with world(kind("event_log", "EventLog")) as env:
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
async def test_an_echo_comes_back_in_both_styles() -> None:
    """Methods outlive a crash of the object, listeners end with it: 1012."""
    async with world(kind("echo", "Echo")) as env:
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
    async with world(kind("metered_object", "MeteredObject"), vars={"HIGH_USAGE": 3}) as env:
        one = env.MeteredObject.get("one")
        for _ in range(5):
            await one.fetch("/")
            await env.advance(1)
        assert env.state(one)["metrics:requests"] == 5
        assert env.state(one)["metrics:high_usage_at"] < env.now - 2_000


@story
async def test_memory_is_lost_and_state_is_not() -> None:
    """`start` runs once for each stay in memory."""
    async with world(kind("session_cache", "SessionCache")) as env:
        one = env.SessionCache.get("one")
        for _ in range(2):
            await one.fetch("/")
        await env.crash(one)
        assert json.loads((await one.fetch("/")).body) == {"in_memory": 1, "persistent": 3, "stays": 2}


# --8<-- [start:ledger]
@story
async def test_a_transfer_is_whole_or_nothing() -> None:
    """The refused one had written to its target already."""
    async with world(kind("ledger", "Ledger")) as env:
        bank = env.Ledger.get("bank")
        await bank.deposit("a", 10)
        assert await bank.transfer("a", "b", 4) == {"a": 6, "b": 4}
        with pytest.raises(Refusal) as refused:
            await bank.transfer("a", "b", 7)
        assert refused.value.detail == {"missing": 1}
        assert await bank.balances() == {"a": 6, "b": 4}


# --8<-- [end:ledger]


# --8<-- [start:cache]
@story
async def test_a_cache_asks_its_origin_once() -> None:
    """100 at once are one request; an hour later it asks again; a failure is not kept."""
    asked: list[str] = []

    async def origin(request: Request) -> Response:
        asked.append(request.path)
        return Response("no", 500) if "bad" in request.path else Response(f"answer {len(asked)}")

    variables = {"ORIGIN_URL": "http://origin/"}
    async with world(kind("distributed_cache", "DistributedCache"), vars=variables, outside=origin) as env:
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


# --8<-- [end:cache]
