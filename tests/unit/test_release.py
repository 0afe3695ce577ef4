"""What leaves through the gate carries a name of its own."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.realm import Fates
from tests.unit.reign import Reign, story

from perdure.objects.durable import DurableObject
from perdure.objects.http import Request, Response
from perdure.schemas.commands import FETCH, Command, sealed_record
from perdure.schemas.replies import parse_reply
from perdure.streams.log import Record, Topic
from perdure.streams.owning import UNSEALED


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

    async def told(reign: Reign) -> None:
        go = asyncio.Event()
        reign.seen.append(go)
        reign.append_raw(b"Thing/a", b'{"method":"get"}')  # at offset 0; an entry's reply is its 0th message
        reign.append_raw(b"Thing/b", b'{"method":"add"}')
        await reign.until(lambda: reign.owner.undone == 2)
        go.set()
        replies = reign.broker.streams[Topic.REPLIES, 0]
        await reign.until(lambda: replies.end == 2)
        names = [
            parse_reply(each.value, each.headers).message_id for each in await reign.records(Topic.REPLIES)
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
    """A gateway of another process is sent the answer, then the frames in order, though the log lost some of them."""
    far, faults = "0/gateway.far", Fates()

    async def told(reign: Reign) -> None:
        reign.doors.by_log = True
        faults.next = ["ok", fate, "ok", fate]  # the command, its answer and that again, the first frame
        asked = f"far.00000000 {far}"
        upgrade = Command("Thing/a", FETCH, "GET", "/", (), b"", "id", far, socket=asked)
        reign.append(Record(*sealed_record(upgrade, UNSEALED)))
        await reign.until(lambda: reign.owner.release.commands.mark == 1)
        names = [dict(each.headers)["message-id"].decode() for each in await reign.records(Topic.REPLIES)]
        assert [name.partition("/")[2] for name in dict.fromkeys(names)] == ["0", "1", "2"], names

    story(Greeter, told, shared=True, faults=faults)
