"""How long objects stay in memory, and how they come into it, as stories on virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from tests.unit.one_owner import OneOwner, story

from perdure.objects.durable import DurableObject, Env
from perdure.objects.state import State
from perdure.schemas.errors import Refusal
from perdure.streams.turns.eviction import LOOKED_AT, Evictor, estimated_bytes

MIB = 1 << 20


class Thing(DurableObject):
    """It counts its lives and turns; `env.seen` hears when it is made and started."""

    def __init__(self, state: State, env: Env) -> None:
        super().__init__(state, env)
        if "break" in env.seen:
            env.seen.remove("break")
            raise OSError("no")
        env.seen.append(("made", state.id.name))
        self.turns = 0

    async def start(self) -> None:
        await self.state.put("starts", await self.state.get("starts", 0) + 1)

    async def turn(self, hold: int = 0, wait_s: float = 0) -> int:
        self.turns += 1
        if hold:
            self.held = [bytes(1000) for _ in range(hold // 1000)]
        await asyncio.sleep(wait_s)
        return self.turns

    async def refuse(self) -> None:
        raise Refusal("no")

    async def starts(self) -> Any:
        return await self.state.get("starts", 0)


def residence(harness: OneOwner, **options: Any) -> Evictor:
    settings = {
        "idle_s": 60.0,
        "object_bytes": 128 * MIB,
        "memory_bytes": MIB,
        "rss_bytes": lambda: 0,
    } | options
    return Evictor([harness.owner], clock_ms=harness.clock_ms, **settings)


def activations(harness: OneOwner) -> list[str]:
    return [key.removeprefix("Thing/") for key in harness.owner.turns.activations]


def test_an_object_leaves_memory_when_it_was_idle_long_enough() -> None:
    """Not one at work, however long, nor one that was used since; its state is there when it comes back."""

    async def told(harness: OneOwner) -> None:
        keep = residence(harness)
        await harness.call("idle", "turn")
        slow = harness.send("slow", "turn", 0, 90)
        await asyncio.sleep(40)
        await harness.call("used", "turn")
        await asyncio.sleep(25)
        keep.sweep()
        assert sorted(activations(harness)) == ["slow", "used"]
        assert (await harness.call("idle", "turn")).body == b'{"result":1}'
        assert (await harness.call("idle", "starts")).body == b'{"result":2}'
        await harness.replies(slow)
        assert harness.owner.counts.evictions == 1

    story(Thing, told)


def test_when_memory_is_short_those_used_longest_ago_leave_it() -> None:
    """A tenth a second, at least a hundred, until there is room."""

    async def told(harness: OneOwner) -> None:
        rss = [2 * MIB]
        keep = residence(harness, rss_bytes=lambda: rss[0])
        for n in range(250):
            await harness.call(f"o{n}", "turn")
        slow = harness.send("o0", "turn", 0, 5)
        keep.sweep()
        assert activations(harness) == [f"o{n}" for n in range(101, 250)] + ["o0"]
        rss[0] = 0
        keep.sweep()
        assert len(activations(harness)) == 150
        await harness.replies(slow)

    story(Thing, told)


def test_objects_at_work_hide_no_idle_one_behind_them() -> None:
    """Thousands of long turns and paused objects in front: each idle object behind
    leaves, within a few sweeps.
    """

    async def told(harness: OneOwner) -> None:
        keep = residence(harness)
        busy = [harness.send(f"busy{n}", "turn", 0, 300) for n in range(LOOKED_AT + 10)]
        await asyncio.sleep(1)
        for n in range(50):
            await harness.call(f"idle{n}", "turn")
        await asyncio.sleep(100)
        keep.sweep()
        assert not [name for name in activations(harness) if name.startswith("idle")]
        assert len(activations(harness)) == len(busy)
        await harness.replies(*busy)

    story(Thing, told)


def test_a_sweep_lets_the_loop_go_on_between_its_steps() -> None:
    """However many objects leave at once, no step evicts or passes over more than a bounded number."""

    async def told(harness: OneOwner) -> None:
        keep = residence(harness)
        for n in range(2 * LOOKED_AT + 100):
            harness.send(f"o{n}", "turn")
        await asyncio.sleep(100)
        evicted = []
        for _ in keep.steps():
            evicted.append(harness.owner.counts.evictions)
        assert evicted[0] == LOOKED_AT
        assert evicted[-1] == 2 * LOOKED_AT + 100

    story(Thing, told)


def test_room_is_made_for_a_new_object_though_those_used_longest_ago_are_at_work() -> None:
    """They are passed over, a few for each that comes, and never looked at again before the others."""

    async def told(harness: OneOwner) -> None:
        harness.owner.turns.bounds = replace(harness.owner.bounds, activations=40)
        busy = [harness.send(f"busy{n}", "turn", 0, 5) for n in range(30)]
        await asyncio.sleep(1)
        for n in range(30):
            await harness.call(f"idle{n}", "turn")
        assert len(activations(harness)) <= 42  # a few came while only busy ones were looked at
        assert sum(name.startswith("busy") for name in activations(harness)) == 30
        await harness.replies(*busy)

    story(Thing, told)


def test_an_object_that_is_too_large_leaves_memory_after_its_turn() -> None:
    """At once if it is idle; one at work ends its turn as it is and begins the next without what it held."""

    async def told(harness: OneOwner) -> None:
        keep = residence(harness, object_bytes=MIB)
        await harness.call("small", "turn", 1000)
        await harness.call("large", "turn", 3 * MIB)
        await harness.call("busy", "turn", 3 * MIB)
        busy = [harness.send("busy", "turn", 0, 5), harness.send("busy", "turn")]
        await asyncio.sleep(1)
        assert 2.5 * MIB < estimated_bytes(harness.owner.turns.activations["Thing/large"]) < 4 * MIB
        keep.sweep()
        assert activations(harness) == ["small", "busy"]
        first, second = await harness.replies(*busy)
        assert (first.body, second.body) == (b'{"result":2}', b'{"result":1}')
        assert harness.owner.counts.oversized == 2
        assert harness.owner.turns.resident_bytes > 3 * MIB

    story(Thing, told)


def test_an_estimate_looks_at_a_part_and_counts_each_value_once() -> None:
    """However large, wound or strange what hangs on an instance is."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "turn")
        activation = harness.owner.turns.activations["Thing/a"]
        instance: Any = activation.instance
        before = estimated_bytes(activation)
        instance.circle = circle = []
        circle.append(circle)
        instance.again = [instance, circle, circle]
        instance.other = Strange()
        assert before < estimated_bytes(activation) < before + 2000
        instance.many = list(range(1000, 1_000_000))
        assert 30 * MIB < estimated_bytes(activation) < 50 * MIB
        instance.many = {n: {"n": n} for n in range(100_000)}
        assert 20 * MIB < estimated_bytes(activation) < 80 * MIB

    story(Thing, told)


class Strange:
    """It does not want to be looked at."""

    def __sizeof__(self) -> int:
        raise OSError("no")


def test_an_object_that_cannot_be_made_fails_its_command_and_is_made_by_the_next() -> None:
    """The error is typed; nothing of the attempt stays."""

    async def told(harness: OneOwner) -> None:
        harness.seen.append("break")
        reply = await harness.call("a", "turn")
        assert reply.error is not None
        assert (reply.outcome, reply.error.code) == ("failed", "handler-failed")
        assert (await harness.call("a", "turn")).body == b'{"result":1}'
        assert harness.seen == [("made", "a")]

    story(Thing, told)


def test_what_start_wrote_is_not_lost_with_a_refused_turn() -> None:
    """It was rolled back with the turn, so the object starts again."""

    async def told(harness: OneOwner) -> None:
        assert (await harness.call("a", "refuse")).outcome == "refused"
        assert (await harness.call("a", "starts")).body == b'{"result":1}'
        assert (await harness.call("a", "refuse")).outcome == "refused"
        assert (await harness.call("a", "starts")).body == b'{"result":1}'
        assert harness.seen == [("made", "a"), ("made", "a")]

    story(Thing, told)
