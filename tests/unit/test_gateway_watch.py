"""The watch over the gateways of other nodes: one for all partitions of a node, whatever fails in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.unit.harness import RecordingIngress
from tests.unit.owners import Owners, story

from perdure.objects.durable import DurableObject
from perdure.objects.http import Request, Response
from perdure.objects.sockets import WebSocket
from perdure.schemas.commands import FETCH, NOBODY, Command, sealed_record
from perdure.schemas.effects import Out
from perdure.schemas.errors import LogCorrupt, Unavailable
from perdure.schemas.sockets import ENDED_KIND, HEARTBEAT_KIND, socket_id
from perdure.streams.log.base import Record, Topic
from perdure.streams.owner.socket_watch import SILENT_S, GatewayWatch
from perdure.streams.turns.ports import UNSEALED

GATEWAYS = ("0/gateway.g0", "0/gateway.g1", "1/gateway.g2")


class Room(DurableObject):
    """Accepts, and keeps what it hears of ends."""

    async def fetch(self, request: Request) -> Response:
        await self.state.accept_websocket(request)
        return Response.upgrade()

    async def websocket_close(self, ws: WebSocket, code: int, reason: str, was_clean: bool) -> None:
        self.env.seen.append((ws.id, code))


class Elsewhere(RecordingIngress):
    """All gateways are those of other nodes."""

    def frames(self, out: Out, partition: int, offset: int, n: int) -> bool:
        return False


async def connect(harness: Owners, gateways: tuple[str, ...] = GATEWAYS) -> list[str]:
    """In each partition an object gets a socket of each gateway; their ids."""
    ids = []
    for number in range(harness.partitions):
        for gateway in gateways:
            id_ = socket_id(gateway.rpartition(".")[2], number)
            ids.append(id_)
            key = f"Thing/{harness.name_in(number)}"
            headers = (("upgrade", "websocket"),)
            command = Command(key, FETCH, "GET", "/", headers, b"", id_, NOBODY, socket=f"{id_} {gateway}")
            harness.log.append(Topic.COMMANDS, number, Record(*sealed_record(command, UNSEALED)))
    await harness.quiet()
    return ids


def beat(harness: Owners, gateway: str) -> None:
    place, _, name = gateway.partition("/")
    harness.log.append(Topic.REPLIES, int(place), Record(name.encode(), b"", (HEARTBEAT_KIND,)))


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateways of the stories are elsewhere."""
    monkeypatch.setattr("tests.unit.harness.RecordingIngress", Elsewhere)


def test_each_place_is_read_once_in_a_look_for_all_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three partitions have sockets of three gateways, of which two are heard in one place."""

    async def told(harness: Owners) -> None:
        await connect(harness)
        reads: Counter[int] = Counter()
        true = harness.log.read

        def counted(topic: Topic, partition: int, start: int, end: int) -> Any:
            reads[partition] += topic is Topic.REPLIES
            return true(topic, partition, start, end)

        monkeypatch.setattr(harness.log, "read", counted)
        for _ in range(10):
            for gateway in GATEWAYS:
                beat(harness, gateway)
            await asyncio.sleep(SILENT_S)
        assert harness.seen == []
        assert 0 < reads[0] <= 10
        assert 0 < reads[1] <= 10
        assert reads[2] == 0

    story(Room, told, shared=True)


def test_a_gateway_that_falls_silent_is_told_once_and_its_sockets_close_in_all_partitions() -> None:
    """Those of the gateways that are heard stay, also of one in the same place."""

    async def told(harness: Owners) -> None:
        ids = await connect(harness)
        for _ in range(8):
            await asyncio.sleep(SILENT_S / 2)
            beat(harness, GATEWAYS[0])
            beat(harness, GATEWAYS[2])
        silent = [(id_, 1006) for id_ in ids if id_.startswith("g1.")]
        assert sorted(harness.seen) == sorted(silent)
        ends = [each for each in await harness.records(Topic.REPLIES, 0) if ENDED_KIND in each.headers]
        assert [each.key for each in ends] == [b"gateway.g1"]

    story(Room, told, shared=True)


def test_a_look_that_fails_concludes_nothing_and_stops_no_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was to read was trimmed meanwhile: the looks after it find who has
    ended, and all partitions serve.
    """

    async def told(harness: Owners) -> None:
        ids = await connect(harness)
        true, failures = harness.log.read, 2

        def trimmed(topic: Topic, partition: int, start: int, end: int) -> Any:
            nonlocal failures
            if topic is Topic.REPLIES and failures:
                failures -= 1
                raise LogCorrupt("offset 0 is gone")
            return true(topic, partition, start, end)

        monkeypatch.setattr(harness.log, "read", trimmed)
        while failures:
            for gateway in GATEWAYS:
                beat(harness, gateway)
            await asyncio.sleep(SILENT_S / 2)
        assert harness.seen == []
        await harness.until(lambda: len(harness.seen) == len(ids))
        assert sorted(harness.seen) == sorted((id_, 1006) for id_ in ids)

    story(Room, told, shared=True)


def test_a_partition_that_is_served_later_is_watched_too() -> None:
    """And one whose reign ends is left; the watch ends with the last one."""

    async def told(harness: Owners) -> None:
        ids = await connect(harness)
        watch = harness.ports.remote_gateways
        assert isinstance(watch, GatewayWatch)
        first = harness.owners[0]
        first.lost(Unavailable("a test"))
        assert set(watch._partitions) == {1, 2}
        await harness.until(lambda: len(harness.seen) == len(ids))
        for owner in harness.owners:
            owner.end_epoch()
        assert watch._task is None

    story(Room, told, shared=True, check=False)
