"""Consumer groups: members join, the leader assigns, silent ones are removed; commits are durable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.wire_client import REPLIES, Client, Listening, run

from perdure.streams.virtual_time import VirtualLoop
from perdure.streams.wire.codec import Message
from perdure.streams.wire.errors import Code
from perdure.streams.wire.groups.group import Group, GroupState
from perdure.streams.wire.groups.offsets import KEEP_MS

SESSION_S, REBALANCE_S = 10.0, 60.0


def joining(member: str = "", instance: str | None = None, *names: str) -> Message:
    return {
        "group": "g",
        "member": member,
        "instance": instance,
        "session_timeout_ms": int(SESSION_S * 1000),
        "rebalance_timeout_ms": int(REBALANCE_S * 1000),
        "protocol_type": "consumer",
        "protocols": [{"name": name, "metadata": b"m-" + name.encode()} for name in names or ("range",)],
    }


class Joiner:
    """A member as client libraries are: it joins, syncs, sends heartbeats, and joins again when it has to."""

    def __init__(self, group: Group, name: str) -> None:
        self.group = group
        self.name = name
        self.id = ""
        self.generation = -1
        self.assigned: bytes | None = None
        self.task = asyncio.ensure_future(self._live())

    async def _live(self) -> None:
        while True:
            self.assigned = None
            joined = await self.group.join(joining(self.id), self.name, "", needs_id=True)
            if joined.get("error") == Code.MEMBER_ID_REQUIRED:
                self.id = joined["member"]
                continue
            if joined.get("error"):
                self.id = ""
                continue
            self.id, self.generation = joined["member"], joined["generation"]
            shares = [
                {"member": each["member"], "assignment": b"%d" % n}
                for n, each in enumerate(joined["members"])
            ]
            request = {
                "member": self.id,
                "generation": self.generation,
                "instance": None,
                "assignments": shares,
            }
            synced = await self.group.sync(request)
            if synced.get("error"):
                continue
            self.assigned = synced["assignment"]
            while not self.group.heartbeat(self.id, self.generation, None):  # noqa: ASYNC110 - as clients do
                await asyncio.sleep(3)


def virtual(test: Callable[[Group], Awaitable[None]]) -> None:
    """Run a test with a group in virtual time."""

    async def main() -> None:
        group = Group("g", asyncio.get_running_loop())
        await test(group)
        group.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_a_new_member_is_given_an_id_and_joins_with_it() -> None:
    """By the old protocol it is a member at once."""

    async def test(group: Group) -> None:
        first = await group.join(joining(), "c", "h", needs_id=True)
        assert (first["error"], group.state) == (Code.MEMBER_ID_REQUIRED, GroupState.EMPTY)
        joined = await group.join(joining(first["member"]), "c", "h", needs_id=True)
        assert (joined["generation"], joined["leader"]) == (1, first["member"])
        assert [each["metadata"] for each in joined["members"]] == [b"m-range"]
        wrong = await group.join(joining("another"), "c", "h", needs_id=True)
        assert wrong["error"] == Code.UNKNOWN_MEMBER_ID
        old = Group("old", asyncio.get_running_loop())
        assert (await old.join(joining(), "c", "h", needs_id=False))["generation"] == 1
        old.close()

    virtual(test)


def test_members_share_one_generation() -> None:
    """Each that comes or goes makes another one, of which one member is the leader."""

    async def test(group: Group) -> None:
        members = [Joiner(group, f"m{n}") for n in range(3)]
        await asyncio.sleep(20)
        assert group.state is GroupState.STABLE
        assert sorted(each.assigned or b"" for each in members) == [b"0", b"1", b"2"]
        assert {each.generation for each in members} == {group.generation}
        gone = members.pop()
        gone.task.cancel()
        assert group.leave(gone.id) == 0
        assert group.leave(gone.id) == Code.UNKNOWN_MEMBER_ID
        assert group.heartbeat(members[0].id, group.generation, None) == Code.REBALANCE_IN_PROGRESS
        await asyncio.sleep(20)
        assert sorted(each.assigned or b"" for each in members) == [b"0", b"1"]
        assert group.check(gone.id, group.generation) == Code.UNKNOWN_MEMBER_ID
        assert group.check(members[0].id, group.generation - 1) == Code.ILLEGAL_GENERATION
        for each in members:
            each.task.cancel()

    virtual(test)


def test_a_silent_member_is_removed_after_its_session() -> None:
    """Not before, and the last one leaves an empty group."""

    async def test(group: Group) -> None:
        alive, dead = Joiner(group, "alive"), Joiner(group, "dead")
        await asyncio.sleep(20)
        dead.task.cancel()
        await asyncio.sleep(SESSION_S - 4)
        assert len(group.members) == 2
        await asyncio.sleep(20)
        assert [each.id for each in group.members.values()] == [alive.id]
        assert alive.assigned == b"0"
        alive.task.cancel()
        await asyncio.sleep(2 * SESSION_S)
        assert group.idle
        assert group.state is GroupState.EMPTY

    virtual(test)


def test_who_does_not_join_again_in_time_is_left_behind() -> None:
    """Although it sends heartbeats; the others wait for it no longer than the rebalance time-out."""

    async def test(group: Group) -> None:
        stubborn = await group.join(joining(), "stubborn", "", needs_id=False)
        other = group.join(joining(), "other", "", needs_id=False)
        for _ in range(int(REBALANCE_S) // 5 - 1):
            await asyncio.sleep(5)
            assert not other.done()
            assert group.heartbeat(stubborn["member"], 1, None) == Code.REBALANCE_IN_PROGRESS
        await asyncio.sleep(6)
        assert other.done()
        assert (await other)["leader"] == (await other)["member"]
        assert group.check(stubborn["member"], 2) == Code.UNKNOWN_MEMBER_ID

    virtual(test)


def test_the_protocol_is_one_that_all_have() -> None:
    """The one that most of them prefer; a member without a common one is refused."""

    async def test(group: Group) -> None:
        first = group.join(joining("", None, "a", "b"), "1", "", needs_id=False)
        id_ = (await first)["member"]
        second = group.join(joining("", None, "b", "c"), "2", "", needs_id=False)
        again = group.join(joining(id_, None, "a", "b"), "1", "", needs_id=False)
        assert [(await each)["protocol"] for each in (second, again)] == ["b", "b"]
        refused = await group.join(joining("", None, "c"), "3", "", needs_id=False)
        assert refused["error"] == Code.INCONSISTENT_GROUP_PROTOCOL
        assert (await group.join(joining() | {"protocols": []}, "4", "", needs_id=False))["error"]

    virtual(test)


def test_an_instance_that_comes_back_takes_its_own_place() -> None:
    """The member that had it is fenced."""

    async def test(group: Group) -> None:
        before = await group.join(joining("", "i"), "c", "", needs_id=True)
        after = await group.join(joining("", "i"), "c", "", needs_id=True)
        assert after["member"] != before["member"]
        assert list(group.members) == [after["member"]]
        assert group.heartbeat(before["member"], 2, "i") == Code.FENCED_INSTANCE_ID
        refused = await group.join(joining(before["member"], "i"), "c", "", needs_id=True)
        assert refused["error"] == Code.FENCED_INSTANCE_ID

    virtual(test)


def test_a_group_has_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members, and what each says of itself, are bounded."""
    monkeypatch.setattr("perdure.streams.wire.groups.group.MAX_MEMBERS", 3)

    async def test(group: Group) -> None:
        for _ in range(3):
            await group.join(joining(), "c", "", needs_id=True)
        refused = await group.join(joining(), "c", "", needs_id=True)
        assert refused["error"] == Code.GROUP_MAX_SIZE_REACHED
        large = joining() | {"protocols": [{"name": "range", "metadata": bytes(300_000)}]}
        other = Group("other", asyncio.get_running_loop())
        assert (await other.join(large, "c", "", needs_id=False))["error"] == Code.GROUP_MAX_SIZE_REACHED
        await asyncio.sleep(2 * SESSION_S)  # ids that nobody used expire
        assert group.idle

    virtual(test)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_members_do_those_that_stay_share_the_work(seed: int) -> None:
    """Members come, leave and die at random: in the end each that is left has one share of the same
    generation.
    """
    random = Random(seed)

    async def test(group: Group) -> None:
        members: list[Joiner] = []
        for n in range(30):
            if not members or random.random() < 0.5:
                members.append(Joiner(group, f"m{n}"))
            else:
                gone = members.pop(random.randrange(len(members)))
                gone.task.cancel()
                if random.random() < 0.5:
                    group.leave(gone.id)
            await asyncio.sleep(random.choice((0, 0, 1, 5, 15)))
        await asyncio.sleep(3 * REBALANCE_S)
        shares = sorted(int(each.assigned or b"-1") for each in members)
        assert shares == list(range(len(members)))
        assert {each.generation for each in members} <= {group.generation}
        assert set(group.members) == {each.id for each in members}
        for each in members:
            each.task.cancel()

    virtual(test)


async def commit(client: Client, version: int, offset: int, **more: Any) -> int:
    """Commit an offset of partition 0 of replies; returns the error."""
    part = {"index": more.pop("index", 0), "offset": offset, "metadata": more.pop("metadata", "note")}
    topics = [{"name": more.pop("topic", REPLIES), "partitions": [part]}]
    wanted = {"group": "g", "generation": -1, "member": "", "topics": topics} | more
    response = await client.ask("OffsetCommit", version, **wanted)
    code: int = response["topics"][0]["partitions"][0]["error"]
    return code


async def committed(client: Client, version: int, *partitions: int) -> list[int]:
    """The committed offsets of partitions of replies."""
    topics = [{"name": REPLIES, "partitions": list(partitions)}]
    groups = [{"group": "g", "topics": topics}]
    response = await client.ask("OffsetFetch", version, group="g", topics=topics, groups=groups)
    found = response["groups"][0] if version == 8 else response
    return [part["offset"] for part in found["topics"][0]["partitions"]]


@pytest.mark.parametrize("version", range(2, 9))
def test_commits_are_there_after_a_restart(tmp_path: Path, version: int) -> None:
    """The last one of each partition, for every version of the requests."""

    async def first(one: Listening) -> None:
        client = await one.connect()
        assert [await commit(client, version, offset) for offset in (3, 7)] == [0, 0]
        assert await commit(client, version, 1, topic="gone") == Code.UNKNOWN_TOPIC_OR_PARTITION
        assert await commit(client, version, 1, metadata="x" * 5000) == Code.OFFSET_METADATA_TOO_LARGE

    async def second(one: Listening) -> None:
        client = await one.connect()
        assert await committed(client, version, 0, 1) == [7, -1]
        everything = await client.ask("OffsetFetch", 7, group="g", topics=None)
        assert [(topic["name"], topic["partitions"]) for topic in everything["topics"]] == [
            (REPLIES, [{"index": 0, "offset": 7, "leader_epoch": -1, "metadata": "note", "error": 0}])
        ]

    run(tmp_path, first)
    run(tmp_path, second)


@pytest.mark.parametrize("version", range(7))
def test_a_group_over_the_wire(tmp_path: Path, version: int) -> None:
    """Join, sync, heartbeat, commit and leave, by every version; others of their generation alone."""
    later = min(version, 4)

    async def test(one: Listening) -> None:
        client = await one.connect()
        found = await client.ask("FindCoordinator", later, key="g", keys=["g"])
        place = found["coordinators"][0] if later == 4 else found
        assert (place["node_id"], place["port"]) == (1, one.port)
        joined = await client.ask("JoinGroup", version, **joining())
        if version >= 4:
            assert joined["error"] == Code.MEMBER_ID_REQUIRED
            joined = await client.ask("JoinGroup", version, **joining(joined["member"]))
        member = {
            "group": "g",
            "member": joined["member"],
            "generation": joined["generation"],
            "instance": None,
        }
        assert (joined["error"], joined["leader"], len(joined["members"])) == (0, joined["member"], 1)
        shares = [{"member": joined["member"], "assignment": b"all"}]
        synced = await client.ask("SyncGroup", later, **member, assignments=shares)
        assert synced["assignment"] == b"all"
        assert (await client.ask("Heartbeat", later, **member))["error"] == 0
        assert await commit(client, 8, 5, **member) == 0
        assert await commit(client, 8, 5) == Code.UNKNOWN_MEMBER_ID
        assert await commit(client, 8, 5, **member | {"generation": 0}) == Code.ILLEGAL_GENERATION
        described = (await client.ask("DescribeGroups", min(version, 5), groups=["g", "no"]))["groups"]
        assert [each["state"] for each in described] == ["Stable", "Dead"]
        assert described[0]["members"][0]["assignment"] == b"all"
        listed = await client.ask("ListGroups", later, states=[])
        assert [each["group"] for each in listed["groups"]] == ["g"]
        gone = await client.ask(
            "LeaveGroup", later, **member, members=[{"member": joined["member"], "instance": None}]
        )
        assert gone["error"] == 0
        assert (await client.ask("Heartbeat", later, **member))["error"] == Code.UNKNOWN_MEMBER_ID
        assert await committed(client, 8, 0) == [5]

    run(tmp_path, test)


def test_a_member_whose_connection_is_lost_while_it_joins_is_no_member(tmp_path: Path) -> None:
    """The others need not wait for it."""

    async def test(one: Listening) -> None:
        first, second, third = [await one.connect() for _ in range(3)]
        joined = await first.ask("JoinGroup", 2, **joining())
        second.send("JoinGroup", 2, joining())
        assert joined["generation"] == 1
        group = one.listener.broker.groups.groups["g"]
        while len(group.members) < 2:  # noqa: ASYNC110 - the request is under way
            await asyncio.sleep(0.01)
        second.close()
        while one.listener.connections == 3:  # noqa: ASYNC110 - so is its end
            await asyncio.sleep(0.01)
        again = await first.ask("JoinGroup", 2, **joining(joined["member"]))
        if again["generation"] == 2:
            assert list(group.members) == [joined["member"]]
        third.close()

    run(tmp_path, test)


def test_what_is_not_used_is_forgotten(tmp_path: Path) -> None:
    """Offsets of a group that has committed nothing for a week, and groups without members."""
    now = [0]

    async def test(one: Listening) -> None:
        client = await one.connect()
        await commit(client, 8, 5)
        now[0] = KEEP_MS
        one.listener.trim()
        assert await committed(client, 8, 0) == [5]
        now[0] = KEEP_MS + 1
        one.listener.trim()
        assert await committed(client, 8, 0) == [-1]
        await commit(client, 8, 6)
        assert len(list(one.listener.broker.log.rows(b"offset/"))) == 1

    run(tmp_path, test, clock_ms=lambda: now[0], keep_ms=10**12)


def test_there_are_no_transactions(tmp_path: Path) -> None:
    """Neither a coordinator nor a producer id, nor a batch."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        denied = Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        assert (await client.ask("FindCoordinator", 3, key="t", key_type=1))["error"] == denied
        assert (await client.ask("InitProducerId", 3, transactional_id="t"))["error"] == denied

    run(tmp_path, test)
