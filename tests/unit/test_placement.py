"""Nodes on a `VirtualLoop` that join, leave, die and are stopped, and what clients see of it."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.cluster import PARTITIONS, Cluster, ClusterNode, FarEnd, run

from perdure.schemas.errors import OutcomeUnknown, Overloaded, Unavailable
from perdure.schemas.journal import Claim, encode_unchained
from perdure.schemas.keys import partition_of
from perdure.streams.log.base import Record, Topic
from perdure.streams.placement.members import SILENT_TICKS
from perdure.streams.turns.ports import OwnerState, PartitionBounds


def test_a_node_that_is_alone_owns_everything_at_once() -> None:
    """It waits for nobody."""

    async def story() -> None:
        cluster = Cluster()
        node = await cluster.add()
        await cluster.settled()
        assert node.serves == list(range(PARTITIONS))
        assert asyncio.get_running_loop().time() < 0.5
        await cluster.end()

    run(story())


def test_a_second_node_takes_its_share_while_the_first_serves() -> None:
    """No call fails, by either gateway, and each partition is claimed once more only."""

    async def story() -> None:
        cluster = Cluster()
        first = await cluster.add()
        await cluster.settled()
        clients = [asyncio.create_task(cluster.client(n, 60)) for n in range(8)]
        await asyncio.sleep(0.5)
        second = await cluster.add()
        await cluster.settled()
        assert len(first.serves) == len(second.serves) == PARTITIONS // 2
        await asyncio.gather(*clients)
        assert not cluster.failures
        assert [owner.counts.claims for owner in first.owners] == [1] * PARTITIONS
        assert sum(owner.counts.claims for owner in second.owners) == PARTITIONS // 2
        await cluster.check()
        await cluster.end()

    run(story())


def test_a_node_that_leaves_hands_over_without_a_failed_call() -> None:
    """Its successors are warm, so that no partition is away for longer than a second."""

    async def story() -> None:
        cluster = Cluster(standbys=1)
        stays, leaves = await cluster.add(), await cluster.add()
        await cluster.settled()
        clients = [asyncio.create_task(cluster.client(n, 60, on=[stays])) for n in range(8)]
        await asyncio.sleep(1)
        began_s = asyncio.get_running_loop().time()
        await leaves.leave()
        assert asyncio.get_running_loop().time() - began_s < 1.0
        await cluster.settled()
        assert asyncio.get_running_loop().time() - began_s < 1.0
        await asyncio.gather(*clients)
        assert not cluster.failures
        await cluster.check()
        await cluster.end()

    run(story())


def test_a_node_that_dies_is_followed_within_the_time_that_its_silence_takes() -> None:
    """Its partitions serve again, and what was under way there runs once."""

    async def story() -> None:
        cluster = Cluster(standbys=1)
        first, second = await cluster.add(), await cluster.add()
        await cluster.settled()
        clients = [asyncio.create_task(cluster.client(n, 40, on=[first])) for n in range(8)]
        await asyncio.sleep(1)
        await second.kill()
        died_s = asyncio.get_running_loop().time()
        await cluster.settled()
        assert asyncio.get_running_loop().time() - died_s < SILENT_TICKS + 2
        assert first.serves == list(range(PARTITIONS))
        await asyncio.gather(*clients)
        await cluster.check()
        await cluster.end()

    run(story())


def test_a_node_that_was_stopped_takes_nothing_back_and_joins_again() -> None:
    """It is fenced, answers nothing meanwhile, and gets a share by a hand-over like any other node."""

    async def story() -> None:
        cluster = Cluster()
        first, second = await cluster.add(), await cluster.add()
        await cluster.settled()
        had = second.serves
        name = second.placement.membership.name
        claims = sum(owner.counts.claims for owner in second.owners)
        second.stall(30)
        await cluster.until(lambda: first.serves == list(range(PARTITIONS)))
        clients = [asyncio.create_task(cluster.client(n, 40, on=[first])) for n in range(4)]
        await cluster.until(lambda: second.placement.membership.name != name)
        assert sum(owner.counts.claims for owner in second.owners) == claims
        await cluster.settled()
        assert len(second.serves) == len(had)
        await asyncio.gather(*clients)
        assert not cluster.failures
        await cluster.check()
        await cluster.end()

    run(story())


def test_a_restart_on_the_same_data_directory_waits_for_nothing() -> None:
    """The directory's lock shows that the process before has ended, however it ended."""

    async def story() -> None:
        cluster = Cluster()
        first = await cluster.add(home="here")
        await cluster.settled()
        await first.kill()
        began_s = asyncio.get_running_loop().time()
        second = await cluster.add(first.store, home="here")
        await cluster.settled()
        assert second.serves == list(range(PARTITIONS))
        assert asyncio.get_running_loop().time() - began_s < 0.5
        await cluster.end()

    run(story())


def test_calls_between_objects_cross_nodes_and_moves() -> None:
    """An object of one node calls one of another, while the partitions of both move."""

    async def story() -> None:
        cluster = Cluster()
        first = await cluster.add()
        await cluster.settled()

        async def caller(number: int) -> None:
            for n in range(40):
                await cluster.call(
                    first,
                    f"bag{number}",
                    "relay",
                    f"sink{number}",
                    f"{number}.{n}",
                    key=f"k{number}.{n}",
                )

        callers = [asyncio.create_task(caller(n)) for n in range(6)]
        await asyncio.sleep(0.2)
        second = await cluster.add()
        await cluster.settled()
        await asyncio.gather(*callers)
        assert second.serves
        for number in range(6):
            tokens = await cluster.call(second, f"sink{number}", "tokens")
            assert tokens == [f"{number}.{n}" for n in range(40)]
        await cluster.end()

    run(story())


def test_a_turn_that_outlasts_the_hand_over_runs_at_the_successor() -> None:
    """Its caller waits for one answer, and the token is there once."""

    async def story() -> None:
        cluster = Cluster()
        first = await cluster.add()
        await cluster.settled()
        calls = [
            asyncio.create_task(cluster.call(first, f"bag{n}", "slowly", "t", 4.0, key=f"k{n}"))
            for n in range(6)
        ]
        await asyncio.sleep(0.5)
        await cluster.add()
        await cluster.settled()
        assert asyncio.get_running_loop().time() < 3.5
        assert await asyncio.gather(*calls) == [1] * 6
        await cluster.end()

    run(story())


def test_all_nodes_say_the_same_of_each_partition() -> None:
    """Who serves it, by host, process and epoch, and how far its standby lags."""

    async def story() -> None:
        cluster = Cluster(standbys=1)
        first, second = await cluster.add(), await cluster.add()
        await cluster.settled()
        await asyncio.sleep(3)
        for partition in range(PARTITIONS):
            seats = [node.owners[partition].whereabouts.seat for node in (first, second)]
            assert seats[0] is not None
            assert seats[0] == seats[1]
            owner = first if partition in first.serves else second
            standby = second if owner is first else first
            epoch = owner.owners[partition].tables.reader.epoch
            assert seats[0][:5] == (owner.name, f"host-{owner.name}", 7, epoch, "serving")
            assert seats[0].standbys == ((standby.name, 0),)
            assert standby.owners[partition].state is OwnerState.ELSEWHERE
        await cluster.end()

    run(story())


def test_a_socket_stays_at_its_node_while_its_object_moves() -> None:
    """Messages and frames go by the log: none is lost or doubled over two moves, and no socket is closed."""

    async def story() -> None:
        cluster = Cluster()
        first = await cluster.add()
        await cluster.settled()
        ends = [await FarEnd.open(first, f"room{n}") for n in range(6)]

        async def talk(end: FarEnd) -> None:
            for n in range(60):
                await end.say(f"{n}")
                while len(end.heard) <= n:  # noqa: ASYNC110 - the time is virtual
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)

        talks = [asyncio.create_task(talk(end)) for end in ends]
        await asyncio.sleep(0.3)
        second = await cluster.add()
        await cluster.settled()
        assert second.serves
        await second.leave()
        await cluster.settled()
        await asyncio.gather(*talks)
        for end in ends:
            assert end.heard == [f"{n}" for n in range(60)]
            assert not end.closed
        await cluster.end()

    run(story())


def test_a_gateway_takes_a_bounded_number_of_commands_for_partitions_of_other_nodes() -> None:
    """Over the bound it refuses before anything is appended; below, it waits as for its own objects."""

    async def story() -> None:
        cluster = Cluster()
        first, second = await cluster.add(), await cluster.add()
        await cluster.settled()
        name = next(f"bag{n}" for n in range(99) if partition_of(f"Bag/bag{n}", PARTITIONS) in second.serves)
        first.owners[partition_of(f"Bag/{name}", PARTITIONS)].bounds = PartitionBounds(mailbox=3)
        calls = [asyncio.create_task(cluster.call(first, name, "slowly", f"{n}", 1.0)) for n in range(3)]
        await asyncio.sleep(0.1)
        with pytest.raises(Overloaded, match="served by another one"):
            await cluster.call(first, name, "add", "x")
        assert sorted(await asyncio.gather(*calls)) == [1, 2, 3]
        await cluster.end()

    run(story())


def test_a_partition_that_has_stopped_elsewhere_is_refused_with_its_reason() -> None:
    """By all nodes, which name the one that has it; the others go on."""

    async def story() -> None:
        cluster = Cluster()
        first, second = await cluster.add(), await cluster.add()
        await cluster.settled()
        partition = second.serves[0]
        name = next(f"bag{n}" for n in range(99) if partition_of(f"Bag/bag{n}", PARTITIONS) == partition)
        cluster.broker.accept(cluster.broker.streams[Topic.JOURNAL, partition], [Record(None, b"\x09newer")])
        with pytest.raises(OutcomeUnknown, match="format version 9"):
            await cluster.call(second, name, "add", "x")
        await cluster.until(lambda: second.owners[partition].state is OwnerState.STOPPED)
        await asyncio.sleep(0.1)
        with pytest.raises(Unavailable, match=f"host-{second.name}.*format version 9"):
            await cluster.call(first, name, "add", "x")
        await cluster.end()

    run(story())


def test_the_claim_of_a_node_that_is_not_a_member_stops_the_partition() -> None:
    """A version without placement took it: no member takes it back, and all say so."""

    async def story() -> None:
        cluster = Cluster()
        first = await cluster.add()
        await cluster.settled()
        claim = Claim("rival", "a-stranger", "far.example", 77)
        cluster.broker.accept(
            cluster.broker.streams[Topic.JOURNAL, 0], [Record(None, encode_unchained(claim))]
        )
        name = next(f"bag{n}" for n in range(99) if partition_of(f"Bag/bag{n}", PARTITIONS) == 0)
        call = asyncio.create_task(cluster.call(first, name, "add", "x"))
        await cluster.until(lambda: first.owners[0].state is OwnerState.FENCED)
        await asyncio.sleep(10)
        assert first.owners[0].state is OwnerState.FENCED
        assert first.owners[0].counts.claims == 1
        with pytest.raises(Exception, match="claimed by node a-stranger"):
            await cluster.call(first, name, "add", "y")
        call.cancel()
        await cluster.end()

    run(story())


def test_objects_of_several_nodes_that_wait_for_each_other_are_found_within_seconds() -> None:
    """Crossing calls: one of them fails with `Deadlock` and never runs, the other goes on."""

    async def story() -> None:
        cluster = Cluster()
        first, second = await cluster.add(), await cluster.add()
        await cluster.settled()

        def at(node: ClusterNode) -> str:
            return next(
                f"bag{n}" for n in range(99) if partition_of(f"Bag/bag{n}", PARTITIONS) in node.serves
            )

        one, other = at(first), at(second)
        calls = [
            asyncio.create_task(cluster.call(first, one, "cross", other, "x")),
            asyncio.create_task(cluster.call(second, other, "cross", one, "y")),
        ]
        began_s = asyncio.get_running_loop().time()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert asyncio.get_running_loop().time() - began_s < 3
        (failed,) = [each for each in results if isinstance(each, BaseException)]
        assert "wait for each other" in str(failed)
        tokens = [await cluster.call(first, name, "tokens") for name in (one, other)]
        assert sorted(tokens) in ([[], ["x"]], [[], ["y"]])
        await cluster.end()

    run(story())
