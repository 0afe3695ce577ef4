"""Random stories of nodes on a `VirtualLoop`: they join, leave, die, are stopped and come back.

A seed decides everything. Each story ends with all that clients know held against the objects and the
journals: an acknowledged token is there once, no two answers claim one place, no command counts twice, the
tables are the fold of the journal; and the nodes that are left share the partitions evenly and agree who
has which.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from tests.unit.cluster import Cluster, ClusterNode, run

SOAK = bool(os.environ.get("PERDURE_SOAK"))

from perdure.schemas.errors import PerdureError
from perdure.streams.log.memory.broker import Faults
from perdure.streams.owner.owner import Owner
from perdure.streams.placement import members, placement
from perdure.streams.placement.placement import Placement

SEEDS = 400 if SOAK else 25


BACK_WITHIN_S = 60.0  # until all that clients have under way is acknowledged, once trouble is over


class Rough(Faults):
    """Slow and lost requests, while they are switched on."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.calm = False
        self.timeout_s = 0.5

    def delay_s(self, step: str) -> float:
        roll = self.random.random()
        if self.calm or roll < 0.9:
            return 0.001
        return self.random.random() * (0.02 if roll < 0.99 else 0.3)

    def fate(self, step: str) -> str:
        roll = self.random.random()
        if self.calm or roll > 0.01:
            return "ok"
        return "lost" if roll < 0.005 else "late" if roll < 0.008 else "never"

    def late_s(self) -> float:
        return self.random.random()


async def _written(cluster: Cluster) -> None:
    """What maintenance does."""
    while True:
        await asyncio.sleep(0.3)
        for node in cluster.living:
            for owner in node.owners:
                owner.tables.write_all()
            if cluster.random.random() < 0.5:
                node.store.flush()


async def _trouble(cluster: Cluster, rounds: int) -> None:
    """One change of the nodes after the other."""
    random, dead = cluster.random, list[ClusterNode]()
    for _ in range(rounds):
        await asyncio.sleep(random.random() * 6)
        living, what = cluster.living, random.choice(("join", "leave", "kill", "stall", "stall", "again"))
        if what == "join" and len(living) < 4:
            with suppress(PerdureError):
                await cluster.add()
        elif what == "leave" and len(living) > 1:
            await random.choice(living).leave()
        elif what == "kill" and len(living) > 1:
            node = random.choice(living)
            await node.kill()
            dead.append(node)
        elif what == "stall" and living:
            random.choice(living).stall(random.random() * 12)
        elif what == "again" and dead:
            node = dead.pop()
            await cluster.add(node.store, node.home)
        else:
            continue
        cluster.counts[what] += 1


def story(seed: int) -> Counter[str]:
    """One random run; what happened in it. Raises `AssertionError` naming the seed."""
    random = Random(seed)
    faults = Rough(random)
    cluster = Cluster(seed=seed, standbys=random.choice((0, 1, 1, 2)), faults=faults)

    async def whole() -> None:
        faults.calm = True
        for _ in range(random.randrange(1, 4)):
            await cluster.add()
        faults.calm = False
        writing = asyncio.create_task(_written(cluster))
        clients = [asyncio.create_task(cluster.client(n, 1_000)) for n in range(8)]
        await _trouble(cluster, 8)
        cluster.over = True
        faults.calm = True
        for node in cluster.living:
            node.log.stalled_until_s = 0.0
        async with asyncio.timeout(BACK_WITHIN_S):
            await asyncio.gather(*clients)
        await cluster.settled()
        await asyncio.sleep(3)
        await cluster.settled()
        await cluster.check()
        _check_agreement(cluster)
        writing.cancel()
        await cluster.end()

    try:
        run(whole())
    except Exception as error:
        raise AssertionError(f"seed {seed}: {error!r}; replay it: story({seed})") from error
    return cluster.counts


def _check_agreement(cluster: Cluster) -> None:
    for partition in range(cluster.broker.partitions):
        owners = {
            seat.node
            for node in cluster.living
            if (seat := node.owners[partition].whereabouts.seat) is not None
        }
        serving = {node.name for node in cluster.living if partition in node.serves}
        assert owners == serving, f"partition {partition}: {owners} by what they say, {serving} in truth"


def _stories(seeds: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in range(seeds):
        counts += story(seed)
    return counts


def test_whatever_happens_to_nodes_no_answer_is_lost_or_doubled() -> None:
    """And each kind of trouble has happened, or the runs prove nothing."""
    counts = _stories(SEEDS)
    assert set(counts) == {"join", "leave", "kill", "stall", "again"}


def _never_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "SILENT_TICKS", 10_000)


def _keeps_what_it_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hand-over after which the old owner goes on taking commands, and answers them."""

    async def kept(owner: Owner) -> bool:
        await asyncio.sleep(0)
        return True

    monkeypatch.setattr(placement, "hand_over", kept)


def _steals(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was fenced claims again at once, whoever serves."""
    monkeypatch.setattr(placement, "COOL_TICKS", 0)
    act: Callable[..., None] = Placement._act

    def greedy(self: Any, owner: Owner, place: Any, by_name: Any) -> None:
        act(self, owner, place._replace(owner=self.membership.name), by_name)

    monkeypatch.setattr(Placement, "_act", greedy)


@pytest.mark.parametrize("bug", [_never_gone, _keeps_what_it_gave, _steals])
def test_planted_bugs_are_caught(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same random runs find each of them."""
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        _stories(10)
