"""What leaves through the gate carries a name of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.unit.one_owner import OneOwner, story
from tests.unit.owners import Fates

from perdure.objects.durable import DurableObject
from perdure.objects.http import Request, Response
from perdure.schemas.commands import FETCH, Command, sealed_record
from perdure.schemas.errors import Unavailable
from perdure.schemas.replies import parse_reply
from perdure.streams.log.base import Record, Topic
from perdure.streams.log.memory.log import MemoryLog
from perdure.streams.owner.output import RESENT_AT_ONCE
from perdure.streams.turns.ports import UNSEALED


class Thing(DurableObject):
    async def get(self) -> int:
        await self.env["seen"][0].wait()
        count: int = await self.state.get("count", 0)
        return count

    async def add(self) -> int:
        count = await self.get() + 1
        await self.state.put("count", count)
        return count


def test_no_two_answers_have_one_message_id() -> None:
    """A read and a change that one journal record answers: who drops repeated message ids drops neither."""

    async def told(harness: OneOwner) -> None:
        go = asyncio.Event()
        harness.seen.append(go)
        harness.append_raw(
            b"Thing/a", b'{"method":"get"}'
        )  # at offset 0; an entry's reply is its 0th message
        harness.append_raw(b"Thing/b", b'{"method":"add"}')
        await harness.until(lambda: harness.owner.backlog == 2)
        go.set()
        replies = harness.broker.streams[Topic.REPLIES, 0]
        await harness.until(lambda: replies.end == 2)
        names = [
            parse_reply(each.value, each.headers).message_id for each in await harness.records(Topic.REPLIES)
        ]
        records = {name.partition("/")[0] for name in names}
        assert len(records) == 1, "the story is about one record"
        assert len(set(names)) == 2, names

    story(Thing, told, shared=True)


class Greeter(DurableObject):
    async def fetch(self, request: Request) -> Response:
        socket = await self.state.accept_websocket(request)
        socket.send("hello")
        socket.send("there")
        return Response.upgrade()


@pytest.mark.parametrize("fate", ["never", "late", "lost"])
def test_frames_follow_the_answer_that_accepts_their_socket(fate: str) -> None:
    """A gateway of another process is sent the answer, then the frames in order,
    though the log lost some of them.
    """
    far, faults = "0/gateway.far", Fates()

    async def told(harness: OneOwner) -> None:
        harness.ingress.by_log = True
        faults.next = ["ok", fate, "ok", fate]  # the command, its answer and that again, the first frame
        asked = f"far.00000000 {far}"
        upgrade = Command("Thing/a", FETCH, "GET", "/", (), b"", "id", far, socket=asked)
        harness.append(Record(*sealed_record(upgrade, UNSEALED)))
        await harness.until(lambda: harness.owner.output.commands.mark == 1)
        names = [dict(each.headers)["message-id"].decode() for each in await harness.records(Topic.REPLIES)]
        assert [name.partition("/")[2] for name in dict.fromkeys(names)] == ["0", "1", "2"], names

    story(Greeter, told, shared=True, faults=faults)


class Silent(MemoryLog):
    """A log whose replies cannot be appended to for a while."""

    refusing = True
    appends = 0

    def append(self, topic: Topic, partition: int, record: Record, memo: Any = None) -> Any:
        if topic is not Topic.REPLIES:
            return super().append(topic, partition, record, memo)
        self.appends += 1
        if not self.refusing:
            return super().append(topic, partition, record, memo)
        receipt = super().append(Topic.DEAD, partition, record)  # any place: its outcome is another
        receipt._then, receipt._over, receipt._error = [], True, Unavailable("no leader")
        return receipt


def test_what_does_not_arrive_is_sent_again_through_one_gate() -> None:
    """2,000 answers that cannot be appended for a minute: some thousands of attempts, not hundreds of
    thousands; the log hears of it rarely; all of them arrive, each once, soon after the log takes them
    again."""

    async def told(harness: OneOwner) -> None:
        await harness.end()
        harness.log = log = Silent(harness.broker, "silent")
        await harness.begin()
        harness.seen.append(open_ := asyncio.Event())
        open_.set()
        with capture_logs() as logged:
            for n in range(2_000):
                harness.append_raw(f"Thing/{n}".encode(), b'{"method":"get"}')
            await harness.until(lambda: log.appends >= 2_000)
            since_s, before = harness.broker.loop.time(), log.appends
            await harness.until(lambda: harness.broker.loop.time() > since_s + 60)
            assert log.appends - before < 40 * RESENT_AT_ONCE
            log.refusing = False
            await harness.until(lambda: harness.owner.output.commands.mark == 2_000)
        replies = harness.broker.streams[Topic.REPLIES, 0]
        assert replies.end == 2_000
        tried = [each["attempts"] for each in logged if "sent again" in each["event"]]
        assert tried[:3] == [1, 2, 4]
        assert len(tried) < 12

    story(Thing, told, shared=True)
