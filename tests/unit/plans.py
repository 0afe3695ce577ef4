"""Random turns as plans: JSON values that an object carries out, made of all that
asyncio has for things side by side.

`["pay", name, tag]`, with an amount if it is not 1, calls · `["after", tag, plan]` pays a tag that has the
answer of another plan in it · `["call", name, plan]` lets another object carry out a plan · `["send", name,
tag]` · `["line" | "gather" | "group" | "completed" | "wait", [plan, …]]` · `["hurry", seconds, plan]` gives
up a call that takes longer, and makes it again.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from perdure.objects.durable import DurableObject

sleeps = Random()
SIDE_BY_SIDE = ("line", "gather", "group", "completed", "wait")


def plan_of(random: Random, tag: str, payees: list[str], middle: list[str], depth: int = 2) -> Any:
    """A plan whose payments have tags that begin with `tag`, each its own."""
    if depth == 0 or random.random() < 0.2:
        return _leaf(random, tag, payees)
    kind = random.choice((*SIDE_BY_SIDE, *SIDE_BY_SIDE, "hurry", "call", "after"))
    if kind == "hurry":
        hurried: Any = ["pay", random.choice(payees), f"{tag}.h"]
        if middle and random.random() < 0.5:
            hurried = ["call", random.choice(middle), plan_of(random, f"{tag}.h", payees, [], depth - 1)]
        return [kind, random.choice((0.02, 0.1)), hurried]
    if kind == "call" and middle:
        # whoever is called calls no other of the middle: there are no rings
        return [kind, random.choice(middle), plan_of(random, f"{tag}.c", payees, [], depth - 1)]
    if kind == "after":
        return [kind, random.choice(payees), f"{tag}.a", _leaf(random, f"{tag}.b", payees)]
    if kind == "call":
        kind = "gather"
    plans = [plan_of(random, f"{tag}.{n}", payees, middle, depth - 1) for n in range(random.randrange(2, 4))]
    return [kind, plans]


def _leaf(random: Random, tag: str, payees: list[str]) -> Any:
    return ["send" if random.random() < 0.15 else "pay", random.choice(payees), tag]


def tags_of(plan: Any, tag: str) -> set[str]:
    """What a plan pays in all, without the answers that are in some tags."""
    kind = plan[0]
    if kind in ("pay", "send"):
        return {plan[2]}
    if kind == "after":
        return {plan[2], *tags_of(plan[3], tag)}
    below = plan[1] if kind in SIDE_BY_SIDE else plan[2:]
    return {each for one in below for each in tags_of(one, tag)}


class Planned(DurableObject):
    """Carries out plans, and is paid. What it sleeps is another time in each run."""

    async def pay(self, tag: str, amount: int = 1) -> int:
        await asyncio.sleep(self._jitter_s())
        paid: int = await self.state.get(f"tag:{tag}", 0) + 1
        money: int = await self.state.get("money", 0) + amount
        await self.state.put({f"tag:{tag}": paid, "money": money})
        return money

    async def paid(self) -> dict[str, int]:
        """What was paid to it: how often each tag, and `money` in all."""
        found: dict[str, int] = {"money": await self.state.get("money", 0)}
        for name, times in (await self.state.items(prefix="tag:")).items():
            found[name.removeprefix("tag:")] = times
        return found

    async def run(self, plan: Any) -> int:
        found = await self._do(plan)
        await self.state.put("runs", await self.state.get("runs", 0) + 1)
        return found

    def _jitter_s(self) -> float:
        return sleeps.random() * 0.06

    async def _do(self, plan: Any) -> int:
        await asyncio.sleep(self._jitter_s())
        kind = plan[0]
        if kind == "pay":
            return int(await self.env.THINGS.get(plan[1]).pay(*plan[2:]))
        if kind == "send":
            self.env.THINGS.get(plan[1]).send.pay(plan[2])
            return 0
        if kind == "call":
            return int(await self.env.THINGS.get(plan[1]).run(plan[2]))
        if kind == "after":
            answer = await self._do(plan[3])
            return int(await self.env.THINGS.get(plan[1]).pay(f"{plan[2]}={answer}"))
        if kind == "hurry":
            return await self._hurry(plan[1], plan[2])
        found: int = await getattr(self, f"_{kind}")(plan[1])
        return found

    async def _hurry(self, seconds: float, plan: Any) -> int:
        while True:
            try:
                return await asyncio.wait_for(self._do(plan), seconds)
            except TimeoutError:
                seconds *= 2

    async def _line(self, plans: list[Any]) -> int:
        return sum([await self._do(plan) for plan in plans])

    async def _gather(self, plans: list[Any]) -> int:
        return sum(await asyncio.gather(*(self._do(plan) for plan in plans)))

    async def _group(self, plans: list[Any]) -> int:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._do(plan)) for plan in plans]
        except* Exception as errors:  # noqa: BLE001 - any that one of them raised
            raise _first(errors) from None
        return sum(task.result() for task in tasks)

    async def _completed(self, plans: list[Any]) -> int:
        total = 0
        # tasks, not coroutines: those it would start in the order of their addresses, which no seed decides
        for done in asyncio.as_completed([asyncio.ensure_future(self._do(plan)) for plan in plans]):
            total += await done
        return total

    async def _wait(self, plans: list[Any]) -> int:
        pending = {asyncio.ensure_future(self._do(plan)) for plan in plans}
        total = 0
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            total += sum(task.result() for task in done)
        return total


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
