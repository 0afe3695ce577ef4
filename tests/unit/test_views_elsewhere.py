"""Administration and `GET /commands/{id}` by a node that does not serve the partition."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.unit.cluster import Bag, Cluster, ClusterNode, run

from perdure.api.admin.page import admin_page
from perdure.api.admin.partition_views import PartitionViews
from perdure.api.door.async_commands import commands_page
from perdure.api.gateway import ClientEnvelope
from perdure.api.pages import Page, PageRequest, Refused
from perdure.objects.alarms import AlarmInfo
from perdure.schemas.admin import VIEW
from perdure.schemas.commands import ADMIN, CALL, call_body, parse_command
from perdure.schemas.config import Config
from perdure.schemas.errors import CallerError, PerdureError, StoreCorrupt
from perdure.schemas.keys import partition_of
from perdure.streams.log.base import Topic
from perdure.streams.owner import administration
from perdure.streams.turns.ports import UNSEALED, OwnerState

_Steps = Callable[[Cluster, list["Pages"]], Awaitable[None]]
NAMES = [f"bag{n}" for n in range(12)]


class Pages:
    """The pages of one node, as the door calls them."""

    def __init__(self, node: ClusterNode) -> None:
        self.node = node
        self.views = PartitionViews(node.gateway, node.owners, node.registry)
        self.admin = admin_page(node.gateway, node.owners, self.views, node.registry, Config(name="app"))
        self.commands = commands_page(self.views, node.owners)

    async def get(self, path: str, page: Page | None = None, method: str = "GET", **query: str) -> Any:
        """The JSON of an answer of /admin, or of another page; an error as {"status", "detail"}."""

        async def body() -> bytes:
            return b""

        request = PageRequest(method, tuple(path.split("/")), query, None, body)
        try:
            status, _, content = await (page or self.admin)(request)
        except Refused as refused:
            status, _, content = refused.problem
        except PerdureError as error:
            return {"status": type(error).__name__, "detail": str(error)}
        found = json.loads(content)
        return found if status == 200 else {"status": status, "detail": found["detail"]}


def story(steps: _Steps) -> None:
    """Two nodes share the partitions, and each object has two tokens; then the steps."""

    async def main() -> None:
        cluster = Cluster()
        nodes = [await cluster.add(), await cluster.add()]
        await cluster.settled()
        for name in NAMES:
            for token in ("a", "b"):
                await cluster.call(nodes[0], name, "add", token)
        await steps(cluster, [Pages(node) for node in nodes])
        await cluster.end()

    run(main())


def by_node(pages: list[Pages], name: str) -> tuple[Pages, Pages]:
    """The pages of the node that serves an object, and those of the other one."""
    partition = partition_of(f"Bag/{name}", 4)
    here = [each for each in pages if partition in each.node.serves]
    return here[0], next(each for each in pages if each not in here)


def requests(cluster: Cluster) -> int:
    """How many requests for views lie in all partitions."""
    found = 0
    for partition in range(cluster.broker.partitions):
        for each in cluster.broker.streams[Topic.COMMANDS, partition].records:
            try:
                command = parse_command(each.key, each.value, each.headers, UNSEALED)
            except CallerError:
                continue
            found += command.kind == ADMIN and command.method == VIEW
    return found


@pytest.mark.parametrize("view", ["", "/state", "/turns", "/alarms", "/sockets"])
def test_each_view_of_an_object_is_the_same_by_any_node(view: str) -> None:
    """One request, which its owner answers; the owner's own node needs none."""

    async def steps(cluster: Cluster, pages: list[Pages]) -> None:
        for name in NAMES:
            here, there = by_node(pages, name)
            before = requests(cluster)
            own = await here.get(f"objects/Bag/{name}{view}")
            assert requests(cluster) == before
            assert await there.get(f"objects/Bag/{name}{view}") == own
            assert requests(cluster) == before + 1
            assert "status" not in own

    story(steps)


def test_lists_have_the_objects_of_all_nodes_page_by_page() -> None:
    """In their order, each once, whichever node is asked for which page."""

    async def steps(cluster: Cluster, pages: list[Pages]) -> None:
        assert (await pages[0].get("objects/Bag"))["objects"] == sorted(NAMES)
        for limit in (1, 5, 12, 13):
            names: list[str] = []
            cursor: dict[str, str] = {}
            for turn in range(20):
                page = await pages[turn % 2].get("objects/Bag", limit=str(limit), **cursor)
                names += page["objects"]
                if page["cursor"] is None:
                    break
                assert len(page["objects"]) == limit
                cursor = {"cursor": page["cursor"]}
            assert names == sorted(NAMES)

    story(steps)


def test_an_object_is_paused_and_what_it_parked_is_settled_by_any_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Acts and what they did are seen by both nodes; so is an alarm that was given up after its retries."""

    async def steps(cluster: Cluster, pages: list[Pages]) -> None:
        here, there = by_node(pages, "bag1")
        assert await there.get("objects/Bag/bag1/pause", method="POST") == {"paused": "Bag/bag1"}
        for each in (here, there):
            assert (await each.get("objects/Bag/bag1"))["paused"]["by"] == ""
        assert await there.get("objects/Bag/bag1/resume", method="POST") == {"resumed": "Bag/bag1"}
        for name in ("bag1", "bag2", "bag3", "bag4"):
            await cluster.call(here.node, name, "soon")
        parked: list[Any] = []
        while len(parked) < 4:
            await asyncio.sleep(10)
            parked = (await there.get("parked"))["parked"]
        assert {each["object"] for each in parked} == {"Bag/bag1", "Bag/bag2", "Bag/bag3", "Bag/bag4"}
        assert (await here.get("parked"))["parked"] == parked
        paged: list[Any] = []
        cursor: dict[str, str] = {}
        for turn in range(4):
            page = await pages[turn % 2].get("parked", limit="1", **cursor)
            paged += page["parked"]
            cursor = {"cursor": page["cursor"]}
        assert (paged, cursor) == (parked, {"cursor": None})
        for each in parked:
            assert await there.get(f"parked/{each['id']}/drop", method="POST") == {"dropped": each["id"]}
        again = await here.get(f"parked/{parked[0]['id']}/drop", method="POST")
        assert again["status"] == "NotParked"
        assert (await there.get("parked"))["parked"] == []

    async def soon(self: Bag) -> None:
        await self.state.set_alarm(0)

    async def alarm(self: Bag, info: AlarmInfo) -> None:
        raise RuntimeError("it never works")

    monkeypatch.setattr(Bag, "soon", soon, raising=False)
    monkeypatch.setattr(Bag, "alarm", alarm, raising=False)
    story(steps)


def test_a_command_is_looked_up_and_waited_for_by_any_node() -> None:
    """Pending, then done with its reply; one that does not exist is unknown."""

    async def steps(cluster: Cluster, pages: list[Pages]) -> None:
        here, there = by_node(pages, "bag1")
        envelope = ClientEnvelope(None, "", "")
        body = call_body("slowly", ["c", 5.0], {})
        id_, receipt = there.node.gateway.accept("Bag/bag1", CALL, "slowly", "", (), body, envelope)
        await cluster.until(lambda: receipt.offset is not None)
        for each in (here, there):
            assert (await each.get(id_, each.commands))["status"] == "pending"
        before, began_s = requests(cluster), asyncio.get_running_loop().time()
        there_done, here_done = await asyncio.gather(
            there.get(id_, there.commands, wait="20"), here.get(id_, here.commands, wait="20")
        )
        assert asyncio.get_running_loop().time() - began_s < 9
        assert there_done == here_done
        assert (there_done["status"], there_done["reply"]["body"]) == ("done", {"result": 3})
        assert 0 < requests(cluster) - before < 12, "it looks ever more rarely"
        unknown = id_[:-1] + "zz"
        assert await there.get(unknown, there.commands) == await here.get(unknown, here.commands)
        assert (await there.get(unknown, there.commands))["status"] == 404

    story(steps)


def test_a_request_waits_for_the_successor_of_a_node_that_died() -> None:
    """As every command does: it lies on the log, and the next owner answers it."""

    async def steps(cluster: Cluster, pages: list[Pages]) -> None:
        here, there = by_node(pages, "bag1")
        asked = asyncio.create_task(there.get("objects/Bag/bag1/state"))
        await here.node.kill()
        assert (await asked)["values"] == {"tokens": ["a", "b"]}

    story(steps)


def test_a_partition_that_has_stopped_names_its_node() -> None:
    """Nothing is appended for it, and the table of partitions says that its figures are old."""

    async def steps(cluster: Cluster, pages: list[Pages]) -> None:
        here, there = by_node(pages, "bag1")
        partition = partition_of("Bag/bag1", 4)
        here.node.owners[partition].lost(StoreCorrupt("its state is damaged"))
        await cluster.until(lambda: there.node.owners[partition].error is not None)
        before = requests(cluster)
        refused = await there.get("objects/Bag/bag1/state")
        assert refused["status"] == "Unavailable"
        assert f"node {here.node.name} on" in refused["detail"]
        assert "its state is damaged" in refused["detail"]
        rows = (await there.get("partitions"))["partitions"]
        assert [each.get("stale", False) for each in rows] == [each == partition for each in range(4)]
        assert requests(cluster) == before + len(here.node.serves)

    story(steps)


def test_the_table_of_partitions_has_the_figures_of_their_owners() -> None:
    """Of each the state on the node that is asked, and how far its owner is."""

    async def steps(cluster: Cluster, pages: list[Pages]) -> None:
        first, second = [(await each.get("partitions"))["partitions"] for each in pages]
        for one, other in zip(first, second, strict=True):
            assert {one["state"], other["state"]} == {"serving", "elsewhere"}
            assert one["epoch"] == other["epoch"]
            assert one["paused"] == other["paused"] == 0
            assert min(one["watermark"], other["watermark"]) > 0

    story(steps)


def test_a_fault_in_a_view_and_many_requests_harm_no_partition() -> None:
    """A fault of perdure's own is answered as one; a few views are made at a time, the others wait."""
    running, most = 0, 0

    async def steps(cluster: Cluster, pages: list[Pages]) -> None:
        here, there = by_node(pages, "bag1")
        partition = partition_of("Bag/bag1", 4)

        async def broken(request: Any) -> bytes:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.1)  # of virtual time
            running -= 1
            raise KeyError(request.view)

        here.node.owners[partition].admin.show = broken
        answers = await asyncio.gather(*(there.get("objects/Bag/bag1/state") for _ in range(20)))
        assert {each["status"] for each in answers} == {500}
        assert most == administration.VIEWS_AT_ONCE
        assert here.node.owners[partition].state is OwnerState.SERVING
        assert await cluster.call(there.node, "bag1", "add", "c") == 3

    story(steps)
