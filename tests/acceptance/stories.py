"""One story per system that answers HTTP: what it promises, with a SIGKILL in the middle."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count
from time import monotonic
from typing import Any

from tests.acceptance.systems import QUOTA_WINDOW_S, Interrupted, Systems


async def counter(systems: Systems) -> None:
    """Each acknowledged POST counts once, whatever was in flight."""
    numbers = count()

    async def add() -> tuple[str, int]:
        key = f"/objects/Counter/story{next(numbers) % 5}"
        response = await systems.ask("POST", key)
        assert response.status_code == 200, response.text
        return key, response.json()["count"]

    found = await systems.until_killed(add, clients=16)
    total = 0
    for key in {key for key, _ in found.results}:
        told = [count for each, count in found.results if each == key]
        assert len(told) == len(set(told)), f"{key}: one count was given to two"
        now = (await systems.ask("GET", key)).json()["count"]
        assert now >= max(told)
        total += now
    assert len(found.results) <= total <= len(found.results) + found.unknown


async def rate_limiter(systems: Systems) -> None:
    """Of 500 at once exactly 100 pass; the crash gives nobody a second quota; a
    new window begins by itself.
    """

    async def ask(user: str) -> int:
        response = await systems.ask("POST", "/objects/RateLimiter/all", headers={"user-id": user})
        assert response.status_code in (200, 429), response.text
        assert (response.status_code == 429) == ("retry-after" in response.headers)
        return response.status_code

    before = await asyncio.gather(*(ask("early") for _ in range(500)))
    assert Counter(before) == {200: 100, 429: 400}
    began_s = monotonic()
    found = await systems.until_killed(lambda: ask("late"), clients=2)
    passed = found.results.count(200)
    after = await asyncio.gather(*(ask("late") for _ in range(150)))
    windows = 1 + int((monotonic() - began_s) / QUOTA_WINDOW_S)
    told = passed, found.unknown, Counter(after), windows
    assert 100 - found.unknown <= passed + after.count(200) <= 100 * windows, told
    while await ask("early") != 200:  # noqa: ASYNC110 - time must pass
        await asyncio.sleep(0.1)


async def analytics(systems: Systems) -> None:
    """Each tracked event counts once; GET gives every event's count."""
    numbers = count()

    async def track() -> str:
        event = f"event{next(numbers) % 3}"
        response = await systems.ask("POST", f"/objects/Analytics/site/{event}")
        assert response.text == "tracked"
        return event

    found = await systems.until_killed(track)
    counts = (await systems.ask("GET", "/objects/Analytics/site")).json()
    told = Counter(found.results)
    assert set(counts) == {"event0", "event1", "event2"}
    assert all(counts[event] >= told[event] for event in told)
    assert sum(counts.values()) <= len(found.results) + found.unknown


async def session_manager(systems: Systems) -> None:
    """A session is there until it ends, across the crash, and then is an empty one."""
    numbers = count()

    async def create() -> int:
        number = next(numbers)
        path = f"/objects/SessionManager/site/s{number}"
        response = await systems.ask("POST", path, body={"user": number})
        assert response.text == "session created"
        return number

    found = await systems.until_killed(create)
    late = next(numbers)
    await systems.ask("POST", f"/objects/SessionManager/site/s{late}", body={"user": late})
    assert await _session(systems, late) == {"user": late}
    for number in (found.results[0], found.results[-1], late):
        while (session := await _session(systems, number)) != {}:
            assert session == {"user": number}
            await asyncio.sleep(0.1)


async def _session(systems: Systems, number: int) -> Any:
    return (await systems.ask("GET", f"/objects/SessionManager/site/s{number}")).json()


async def coordinator(systems: Systems) -> None:
    """One of 100 gets the lock, who holds it keeps it across the crash, tokens only grow, it frees itself."""

    async def post(path: str, lock: str, token: str = "") -> Any:
        headers = {"lock-name": lock, "lock-token": token}
        return await systems.ask("POST", f"/objects/Coordinator/locks/{path}", headers=headers)

    race = await asyncio.gather(*(post("lock", "contended") for _ in range(100)))
    assert Counter((r.status_code, r.text) for r in race) == {(200, "acquired"): 1, (409, "locked"): 99}
    first = int(next(r for r in race if r.status_code == 200).headers["lock-token"])
    numbers = count()

    async def turn_about() -> int:
        lock = f"free{next(numbers)}"
        got = await post("lock", lock)
        token = got.headers["lock-token"]
        assert (await post("renew", lock, token)).text == "renewed"
        assert (await post("release", lock, "0")).status_code == 409
        assert (await post("release", lock, token)).text == "released"
        return int(token)

    found = await systems.until_killed(turn_about)
    assert len(set(found.results)) == len(found.results)
    while (again := await post("lock", "contended")).status_code == 409:  # noqa: ASYNC110 - time must pass
        await asyncio.sleep(0.1)
    assert int(again.headers["lock-token"]) > max(first, *found.results)


async def event_log(systems: Systems) -> None:
    """Each acknowledged event is there once, in the order of its time; pages join without a seam."""
    numbers = count()

    async def append() -> int:
        number = next(numbers)
        response = await systems.ask("POST", "/objects/EventLog/log", body={"number": number})
        assert response.json()["number"] == number
        return number

    found = await systems.until_killed(append)
    events = (await systems.ask("GET", "/objects/EventLog/log")).json()
    seen = Counter(event["number"] for event in events)
    assert set(seen.values()) == {1}
    assert set(found.results) <= set(seen)
    times = [event["timestamp"] for event in events]
    assert times == sorted(times)
    pages: list[Any] = []
    while page := (await systems.ask("GET", f"/objects/EventLog/log?after={len(pages)}&limit=7")).json():
        assert len(page) <= 7
        pages += page
    assert pages == events


async def safe_object(systems: Systems) -> None:
    """What was stored last is given back, across the crash."""
    numbers = count(1)

    async def put() -> int:
        number = next(numbers)
        stored = await systems.ask("POST", "/objects/SafeObject/box", body={"number": number})
        assert stored.status_code == 200, stored.text
        return number

    found = await systems.until_killed(put, clients=2)
    stored = (await systems.ask("GET", "/objects/SafeObject/box")).json()["number"]
    assert stored > max(found.results) - 2, "an acknowledged write was lost"


async def metered_object(systems: Systems) -> None:
    """Requests are counted in the object and, per namespace, at /metrics; the hook ran at its bound."""

    async def ask() -> int:
        requests: int = (await systems.ask("GET", "/objects/MeteredObject/one")).json()["requests"]
        return requests

    found = await systems.until_killed(ask)
    assert len(set(found.results)) == len(found.results)
    assert await ask() >= max(found.results) + 1


async def session_cache(systems: Systems) -> None:
    """Attributes are gone after the crash, state is not; `start` ran once for each stay in memory."""

    async def ask() -> dict[str, int]:
        told: dict[str, int] = (await systems.ask("GET", "/objects/SessionCache/one")).json()
        return told

    found = await systems.until_killed(ask, clients=2)
    assert all(told["in_memory"] == told["persistent"] for told in found.results)
    last = max(told["persistent"] for told in found.results)
    now = await ask()
    assert 1 <= now["in_memory"] <= 1 + found.unknown  # what was on the log and not run has run since
    assert now["in_memory"] < now["persistent"]
    assert last < now["persistent"] <= last + 1 + found.unknown
    assert now["stays"] == 2


async def ledger(systems: Systems) -> None:
    """Money is neither made nor lost: transfers are whole or not at all, a refused one leaves no trace."""
    for account in "abc":
        await systems.call("Ledger/bank", "deposit", account, 100)
    numbers = count()

    async def transfer() -> int:
        number = next(numbers)
        source, target = "abc"[number % 3], "abc"[(number + 1) % 3]
        body = {"args": [source, target, 1_000 if number % 4 == 3 else 60]}
        response = await systems.ask("POST", "/rpc/Ledger/bank/transfer", body=body)
        assert response.status_code in (200, 422, 409, 400), response.text
        return response.status_code

    found: Interrupted = await systems.until_killed(transfer)
    assert len(set(found.results)) > 1, "no transfer was refused, or all were"
    balances = await systems.call("Ledger/bank", "balances")
    assert sum(balances.values()) == 300
    assert min(balances.values()) >= 0


async def routing(systems: Systems) -> None:
    """The Worker reaches the same object for the same id; what a room sends to its users arrives once."""
    numbers = count()

    async def visit() -> tuple[str, int]:
        user = f"u{next(numbers) % 4}"
        response = await systems.ask("GET", f"/users/{user}")
        assert response.json()["user"] == user
        await systems.ask("GET", f"/rooms/lobby/{user}")
        return user, response.json()["visits"]

    found = await systems.until_killed(visit)
    assert len(set(found.results)) == len(found.results)
    for user in {user for user, _ in found.results}:
        response = await systems.ask("GET", f"/users/{user}")
        assert response.json()["visits"] > max(visits for each, visits in found.results if each == user)
        while response.json()["rooms"] != ["lobby"]:
            await asyncio.sleep(0.05)
            response = await systems.ask("GET", f"/users/{user}")


async def cleanup_object(systems: Systems) -> None:
    """Items go by themselves when their time has come, also those kept before the crash."""
    numbers = count()

    async def keep() -> int:
        number = next(numbers)
        response = await systems.ask("POST", f"/objects/CleanupObject/attic/i{number}")
        assert response.text == "kept"
        return number

    found = await systems.until_killed(keep)
    assert len(found.results) >= 20
    await keep()
    while (await systems.ask("GET", "/objects/CleanupObject/attic")).json() != {}:  # noqa: ASYNC110 - time must pass
        await asyncio.sleep(0.1)


async def scheduled_object(systems: Systems) -> None:
    """Alarms that were set before the crash run after it by themselves, each once."""
    numbers = count()

    async def schedule() -> str:
        name = f"job{next(numbers)}"
        response = await systems.ask("POST", f"/objects/ScheduledObject/{name}")
        assert response.text == "alarm scheduled"
        return name

    found = await systems.until_killed(schedule)
    for name in found.results:
        while await _runs(systems, name) == 0:  # noqa: ASYNC110 - time must pass
            await asyncio.sleep(0.1)
    assert {await _runs(systems, name) for name in found.results} == {1}


async def _runs(systems: Systems, name: str) -> int:
    runs: int = (await systems.ask("GET", f"/objects/ScheduledObject/{name}/runs")).json()["runs"]
    return runs
