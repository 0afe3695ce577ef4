"""Calls and sends while processes die and appends get lost: what the journals say afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest
from tests.unit.owners import Chaos, Owners, story

from perdure.objects.durable import DurableObject
from perdure.schemas.journal import Entry
from perdure.streams.state import answered_calls

NAMES = [f"n{n}" for n in range(6)]


class Thing(DurableObject):
    """Calls one, which sends on, sends to another, and counts."""

    async def add(self, mark: str) -> int:
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count

    async def relay(self, sent: str, mark: str) -> int:
        self.env.THINGS.get(sent).send.add(mark)
        return await self.add(mark)

    async def trade(self, called: str, sent: str, mark: str) -> list[int]:
        self.env.THINGS.get(sent).send.add(mark)
        other = self.env.THINGS.get(called)
        found: list[int] = [await other.add(mark), await other.relay(sent, mark)]
        self.env.THINGS.get(sent).send.add(mark)
        await self.state.put("last", found)
        return found


def keys_of(entries: list[Entry], kind: str) -> Counter[str]:
    return Counter(each.client_key for each in entries if (each.client_key or "").startswith(f"{kind}:"))


@pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])
@pytest.mark.parametrize("seed", range(12))
def test_each_call_and_send_took_effect_once(
    shared: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry per key; each trade that stands has both its calls and both its sends, those in order, and
    each relay its send.
    """

    async def told(harness: Owners) -> None:
        random = Random(seed)
        monkeypatch.setattr(answered_calls, "BLOCK", 4)  # so that marks are passed in a short story
        harness.broker.faults = harness.faults = chaos = Chaos(random, lost=0.04, never=0.03, late=0.03)
        for n in range(40):
            a, b, c = random.sample(NAMES, 3)
            harness.send(a, "trade", b, c, str(n))
            await asyncio.sleep(random.random() * 0.1)
            if random.random() < 0.12:
                await harness.crash()
                await harness.begin()
        chaos.calm = True
        await asyncio.sleep(40)
        await harness.quiet()
        entries: list[Entry] = [each for name in NAMES for each in await harness.entries(name)]
        calls, sends = keys_of(entries, "call"), keys_of(entries, "send")
        assert {*calls.values(), *sends.values()} == {1}
        trades = [each for each in entries if each.summary.startswith("call trade") and each.outcome == "ok"]
        assert len(trades) > 5
        assert any(owner.tables.answered_calls.passed(p).floor for owner in harness.owners for p in range(3))
        for trade in trades:
            place = f"{harness.place(trade.key.partition('/')[2])}:{trade.command}"
            assert sum(key.startswith(f"call:{place}:") for key in calls) == 2
            assert all(sends[f"send:{place}:{n}"] for n in (1, 2))
        relays = [each for each in entries if each.summary.startswith("call relay") and each.outcome == "ok"]
        for relay in relays:
            assert sends[f"send:{harness.place(relay.key.partition('/')[2])}:{relay.command}:1"]
        assert sends.total() == 2 * len(trades) + len(relays)
        assert orders(entries) == [sorted(order) for order in orders(entries)]
        for name in NAMES:
            assert (harness.value(name) or 0) == sum(
                each.summary.startswith(("call add", "call relay")) and each.outcome == "ok"
                for each in await harness.entries(name)
            )

    story(Thing, told, shared=shared)


def orders(entries: list[Entry]) -> list[list[Any]]:
    """For each pair of sender and receiver: the places of its sends, as they were taken."""
    found: dict[tuple[str, str], list[Any]] = {}
    for each in entries:
        if (each.client_key or "").startswith("send:"):
            place = [int(number) for number in (each.client_key or "").split(":")[2:]]
            found.setdefault((each.principal, each.key), []).append(place)
    return list(found.values())
