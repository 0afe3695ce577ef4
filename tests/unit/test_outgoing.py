"""`perdure.fetch`: what leaves and when, what comes back, and what is said when it doesn't."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.unit.owners import Owners, story

from perdure import FetchFailed, fetch
from perdure.api.worker.outgoing import Outgoing
from perdure.objects.durable import DurableObject
from perdure.objects.http import FetchedResponse
from perdure.objects.outgoing import outside
from perdure.objects.state import current_turn
from perdure.objects.turn import response_reply
from perdure.schemas.errors import FetchTimedOut, FetchTooLarge, TurnEnded
from perdure.schemas.journal import EntryRecord, decode_record
from perdure.schemas.replies import OK, Pairs
from perdure.streams.log.base import Topic

# From a turn


class Looker:
    """The outside, which looks at what is durable whenever something reaches it."""

    def __init__(self, harness: Owners) -> None:
        self.harness = harness
        self.seen: list[tuple[int, int]] = []
        self.headers: list[Pairs] = []

    async def request(
        self, method: str, url: str, headers: Pairs, body: bytes, timeout_s: float | None
    ) -> FetchedResponse:
        self.headers.append(headers)
        streams, place = self.harness.broker.streams, self.harness.place("a")
        journal, commands = (streams[topic, place] for topic in (Topic.JOURNAL, Topic.COMMANDS))
        records = [decode_record(each.value) for each in journal.records[: journal.durable]]
        self.seen.append((commands.durable, sum(isinstance(each, EntryRecord) for each in records)))
        if url.endswith("/fail"):
            raise FetchFailed("no")
        return FetchedResponse(200, (("X-A", "1"),), b'{"a": 1}')


class Thing(DurableObject):
    async def add(self) -> int:
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count

    async def ask(self, path: str) -> Any:
        await self.state.put("asked", path)
        try:
            response = await fetch(f"http://outside{path}")
        except FetchFailed as error:
            return str(error)
        return [response.ok, response.headers["x-a"], await response.json()]


@pytest.mark.parametrize("shared", [False, True])
def test_a_request_leaves_when_all_that_its_turn_has_seen_is_durable(shared: bool) -> None:
    """What another turn wrote, and the turn's own command, are on the disk before
    the world hears of them (I7).
    """

    async def told(harness: Owners) -> None:
        looker = Looker(harness)
        for owner in harness.owners:
            owner.turns._turn_context.run(outside.set, looker)
        harness.faults.delays = {"append": 0.5, "sync": 0.5}
        ids = [harness.send("a", "add"), harness.send("a", "ask", "/x", traceparent="00-a-b-01")]
        ids.append(harness.send("a", "ask", "/fail"))
        replies = await harness.replies(*ids)
        assert [each.body for each in replies[1:]] == [b'{"result":[true,"1",{"a":1}]}', b'{"result":"no"}']
        assert looker.seen[0] == (3, 1)
        assert looker.seen[1] == (3, 2)
        assert looker.headers == [(("traceparent", "00-a-b-01"),), ()]

    story(Thing, told, shared=shared)


def test_outside_a_handler_there_is_nobody_who_sends() -> None:
    """A script that calls `fetch` is told so."""
    with pytest.raises(TurnEnded, match="works inside a handler or a Worker only"):
        asyncio.run(fetch("http://127.0.0.1/"))


# The way out, against a real server


class Caller:
    """A turn that has nothing to wait for."""

    traceparent = "00-t-t-01"

    async def synced(self) -> None:
        """Nothing was seen."""


class Origin:
    """A server of few words: `requests` as they came, answers by path."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.silent = asyncio.Event()
        self.asked = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((line, headers, body))
                self.asked.set()
                path = line.split()[1]
                if path == "/silent":
                    await self.silent.wait()
                writer.write(self.answer(path))
        except asyncio.IncompleteReadError:
            writer.close()

    def answer(self, path: str) -> bytes:
        status, more, body = "200 OK", "", b'{"at": "%b"}' % path.encode()
        if path.startswith("/hop"):
            left = int(path[4:])
            status, more = "302 Found", f"location: {f'/hop{left - 1}' if left else '/end'}\r\n"
        elif path == "/file":
            status, more = "302 Found", "location: file:///etc/hostname\r\n"
        elif path == "/bomb":
            body, more = gzip.compress(bytes(1_000_000)), "content-encoding: gzip\r\n"
        elif path == "/zip":
            body, more = gzip.compress(b"plain"), "content-encoding: gzip\r\nconnection: keep-alive\r\n"
        elif path == "/missing":
            status = "404 Not Found"
        elif path == "/cookie":
            more = "set-cookie: a=b; path=/\r\n"
        elif path == "/garbage":
            return b"garbage\r\n\r\n"
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
        return head.encode() + body


def against_origin(told: Callable[[Origin, str], Awaitable[None]]) -> None:
    """Tell a story with a server and a way out to it."""

    async def main() -> None:
        origin = Origin()
        server = await asyncio.start_server(origin.serve, "127.0.0.1")
        port = server.sockets[0].getsockname()[1]
        way = Outgoing(body_bytes=100_000, timeout_s=20)
        outside.set(way)
        current_turn.set(Caller())
        try:
            await told(origin, f"http://127.0.0.1:{port}")
        finally:
            origin.silent.set()
            await way.close()
            server.close()
            await server.wait_closed()

    asyncio.run(main())


def test_what_is_asked_and_what_comes_back() -> None:
    """Method, body and headers leave as given, with `traceparent`; status, headers and body come back."""

    async def told(origin: Origin, url: str) -> None:
        answer = await fetch(f"{url}/a?b=c")
        assert (answer.status, answer.ok, await answer.json()) == (200, True, {"at": "/a?b=c"})
        line, headers, body = origin.requests[-1]
        assert (line, headers["traceparent"], body) == ("GET /a?b=c HTTP/1.1", "00-t-t-01", b"")
        missing = await fetch(f"{url}/missing", json={"x": [1]}, headers={"X-Mine": "1", "Host": "elsewhere"})
        assert (missing.status, missing.ok) == (404, False)
        line, headers, body = origin.requests[-1]
        assert (line, headers["x-mine"], body) == ("POST /missing HTTP/1.1", "1", b'{"x":[1]}')
        assert headers["content-type"] == "application/json"
        assert headers["host"] in url, "a header that concerns another connection is not passed on"
        assert await (await fetch(f"{url}/zip", method="put", body="é")).text() == "plain"
        assert origin.requests[-1][::2] == ("PUT /zip HTTP/1.1", "é".encode())

    against_origin(told)


def test_an_answer_from_outside_can_be_passed_on_as_it_is() -> None:
    """It was unpacked and is complete: the headers that said otherwise are gone,
    and a handler may return it.
    """

    async def told(origin: Origin, url: str) -> None:
        reply = response_reply(await fetch(f"{url}/zip"))
        assert (reply.outcome, reply.status, reply.headers, reply.body) == (OK, 200, (), b"plain")

    against_origin(told)


def test_redirects_are_followed_a_few_times_and_only_to_the_web() -> None:
    """Five are followed, a sixth is not, nor one to a file of this machine."""

    async def told(origin: Origin, url: str) -> None:
        assert await (await fetch(f"{url}/hop4")).json() == {"at": "/end"}
        with pytest.raises(FetchFailed, match="TooManyRedirects"):
            await fetch(f"{url}/hop5")
        with pytest.raises(FetchFailed, match="UnsupportedProtocol"):
            await fetch(f"{url}/file")
        for wrong in ("file:///etc/hostname", "/a", "ftp://a"):
            with pytest.raises(ValueError, match="http:// or https://"):
                await fetch(wrong)

    against_origin(told)


def test_nothing_is_remembered_between_requests() -> None:
    """A cookie that one object was given is not sent for another."""

    async def told(origin: Origin, url: str) -> None:
        assert (await fetch(f"{url}/cookie")).headers["set-cookie"] == "a=b; path=/"
        await fetch(f"{url}/after")
        assert "cookie" not in origin.requests[-1][1]

    against_origin(told)


def test_an_answer_is_bounded_in_time_and_size() -> None:
    """Too late, or too large once unpacked: each says so with its own type, a `FetchFailed` both."""

    async def told(origin: Origin, url: str) -> None:
        with pytest.raises(FetchTimedOut, match=r"/silent did not end within 0.2 s"):
            await fetch(f"{url}/silent", timeout=0.2)
        with pytest.raises(FetchTooLarge, match=r"over 100000 bytes \(limits.fetch_bytes\)"):
            await fetch(f"{url}/bomb")
        assert issubclass(FetchTimedOut, FetchFailed)
        assert issubclass(FetchTooLarge, FetchFailed)

    against_origin(told)


def test_what_fails_outside_is_told_without_what_is_secret_in_a_url() -> None:
    """Nobody there, or no HTTP: where it went is named, not the user, the password and the query."""

    async def told(origin: Origin, url: str) -> None:
        with pytest.raises(FetchFailed, match="RemoteProtocolError"):
            await fetch(f"{url}/garbage")
        with pytest.raises(FetchFailed) as caught:
            await fetch("http://user:pass@127.0.0.1:1/path?token=hidden")
        said = str(caught.value)
        assert said.startswith("GET http://127.0.0.1:1/path failed: ConnectError")
        assert not any(secret in said for secret in ("user", "pass@", "hidden"))

    against_origin(told)


def test_a_cancelled_request_ends_on_the_wire_too() -> None:
    """Whoever waits is cancelled, and the connection goes: the origin sees its end."""

    async def told(origin: Origin, url: str) -> None:
        asking = asyncio.ensure_future(fetch(f"{url}/silent"))
        await origin.asked.wait()
        asking.cancel()
        await asyncio.wait((asking,))
        assert asking.cancelled()
        rest = [task for task in asyncio.all_tasks() if "_bounded" in repr(task)]
        assert rest == []

    against_origin(told)
