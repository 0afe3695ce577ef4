"""A Worker in front, through the real command line: what it gets, what it may do, what is kept from whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.process import Server, run, serve, until

from perdure.api.cli.serving import _announce
from perdure.api.loading import load_app
from perdure.objects.registry import ObjectType

APP = """
import asyncio, os, sys
from perdure import DurableObject, Refusal, Request, Response
from perdure.objects.state import current_turn

class User(DurableObject):
    async def fetch(self, request):
        seen = await self.state.get("seen", 0) + 1
        await self.state.put("seen", seen)
        body = request.body.decode()
        return Response.json({"me": self.state.id.name, "seen": seen, "body": body, "headers": dict(request.headers),
                              "asked": f"{request.method} {request.path}?{request.query_string}"})

    async def add(self, by=1):
        count = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        return count

    async def count(self):
        return await self.state.get("count", 0)

    async def where(self):
        return self.state.location_hint

    async def envelope(self):
        command = current_turn.get().command
        return [command.client_key, command.traceparent, command.deadline_ms]

    async def fail(self):
        raise ValueError("a secret of the object")

    async def refuse(self):
        raise Refusal("not today", code="not-today", detail={"try": "tomorrow"})

class Room(User):
    pass

here = asyncio.Event()
met, arrived, cancelled, late = 0, 0, 0, ""

async def fetch(request, env):
    global met, arrived, cancelled
    what, _, rest = request.path.strip("/").partition("/")
    user = env.USERS.get(rest or "someone")
    match what:
        case "users":
            return await user.fetch(request)
        case "headers":
            return Response.json([request.url, dict(request.headers)])
        case "add":
            return Response.json([await user.add(), await user.add(10), await env.ROOMS.get("r").add()])
        case "where":
            return Response.json(await env.USERS.get("hinted", location_hint=rest).where())
        case "envelope":
            await asyncio.sleep(0.2)
            return Response.json(await user.envelope())
        case "send":
            for _ in range(20):
                user.send.add(1)
            return Response("sent", 202)
        case "fail":
            return Response(str(rest["x"]))
        case "object-fails":
            await user.fail()
        case "object-refuses":
            await user.refuse()
        case "refuse":
            raise Refusal("no", code="closed")
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "number":
            return 5
        case "slow":
            await asyncio.sleep(60)
        case "meet":
            met += 1
            if met == 50:
                here.set()
            await here.wait()
            return Response("met")
        case "wait":
            arrived += 1
            try:
                await asyncio.Event().wait()
            finally:
                cancelled += 1
        case "later":
            async def outlive():
                global late
                await asyncio.sleep(0.01)
                try:
                    await user.add()
                except Exception as error:
                    late = type(error).__name__
            env.kept = asyncio.create_task(outlive())
            return Response("later")
        case "told":
            return Response.json({"arrived": arrived, "cancelled": cancelled, "late": late})
    return Response(f"nothing at {request.path}", 404)
"""
CONFIG = """
main = "app.py"
name = "front"
partitions = 4
[[durable_objects.bindings]]
name = "USERS"
class_name = "User"
[[durable_objects.bindings]]
name = "ROOMS"
class_name = "Room"
[limits]
body_bytes = 1000
"""


def deployed(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir(exist_ok=True)
    (folder / "app.py").write_text(APP)
    (folder / "perdure.toml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("front")


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    with serve(deployed(place), place / "data") as running:
        yield running


def test_the_worker_routes_by_id(server: Server) -> None:
    """The same id is always the same object, one per user; it sees the request as the client made it."""
    with httpx.Client(base_url=server.url) as client:
        for seen in (1, 2):
            for name in ("alice", "bob"):
                told = client.post(f"/users/{name}?x=%20y", content="hi", headers={"x-mine": "1"}).json()
                assert (told["me"], told["seen"], told["body"]) == (name, seen, "hi")
                assert told["asked"] == f"POST /users/{name}?x=%20y"
                assert told["headers"]["x-mine"] == "1"
        assert client.get("/nothing").status_code == 404
        assert client.get("/nothing").text == "nothing at /nothing"
        assert client.head("/users/alice").status_code == 200


def test_a_location_hint_is_recorded(server: Server) -> None:
    """The first for good; the object is the same with any."""
    assert [httpx.get(f"{server.url}/where/{hint}").json() for hint in ("weur", "enam")] == ["weur", "weur"]


def test_behind_a_worker_the_objects_are_closed_unless_exposed(tmp_path: Path) -> None:
    """403 names `expose = true`, which opens them; perdure's own paths are never the Worker's."""
    app = deployed(tmp_path)
    with serve(app, tmp_path / "data") as server, httpx.Client(base_url=server.url) as client:
        for path in ("/objects/User/alice", "/rpc/User/alice/add"):
            refused = client.post(path)
            assert (refused.status_code, refused.json()["type"]) == (403, "urn:perdure:problem:not-exposed")
            assert "expose = true" in refused.json()["detail"]
        assert client.get("/readyz").status_code == 200
        for path in ("/admin/partitions", "/commands/1"):
            refused = client.get(path)
            assert (refused.status_code, refused.json()["type"]) == (403, "urn:perdure:problem:not-exposed")
            assert all(
                way in refused.json()["detail"] for way in ("perdure dev", "expose = true", "[[tokens]]")
            )
        asked = run("partitions", "--url", server.url)
        assert asked.returncode == 1
        assert "perdure: not-exposed: this app has a Worker in front" in asked.stderr
        for path in (
            "/admin/objects",
            "/commands/1",
            "/docs",
            "/console",
            "/objects",
            "/%61dmin/x",
        ):
            assert "nothing at" not in client.get(path).text, f"the Worker answered {path}"
        assert client.post("/add/alice").json() == [1, 11, 1]
        assert server.stop() == 0
    with serve(app, tmp_path / "data", "--dev") as server:  # as `perdure dev` runs it
        assert [row["partition"] for row in httpx.get(f"{server.url}/admin/partitions").json()["partitions"]]
        assert httpx.post(f"{server.url}/rpc/User/alice/add").status_code == 403
    with serve(app, tmp_path / "data", "--dev", "--host", "0.0.0.0", "--insecure-public") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}/admin/partitions").status_code == 403  # other machines reach it
    with serve(app, tmp_path / "data", environ={"PERDURE_EXPOSE": "true"}) as server:
        assert httpx.post(f"{server.url}/rpc/User/alice/add").json() == {"result": 12}
        assert httpx.get(f"{server.url}/objects/User/alice").json()["asked"] == "GET /?"


@pytest.mark.parametrize(
    ("settings", "dev", "said"),
    [
        (
            "",
            False,
            ("/the Worker", "/objects and /rpc are closed", "/admin is closed", "`perdure dev` opens it"),
        ),
        (
            "",
            True,
            ("/the Worker", "/objects and /rpc are closed", "/admin is open, as this is `perdure dev`"),
        ),
        ("expose = true", False, ("/the Worker", "/objects/User/NAME", "/objects/Room/NAME")),
    ],
)
def test_what_is_said_at_start_is_what_is_reachable(
    settings: str, dev: bool, said: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No URL is printed that answers 403, and each closed one has its remedy."""
    app = deployed(tmp_path)
    config = app / "perdure.toml"
    config.write_text(f"{settings}\n{config.read_text()}")
    loaded = load_app(app)
    types = [ObjectType(name, loaded.classes[name]) for name in ("User", "Room")]
    _announce(loaded, 1, types, as_json=False, dev=dev)
    told = capsys.readouterr().out.replace("1/  the", "/the")
    assert all(each in told for each in (*said, "/docs")), told
    assert ("/objects/User" in told) == bool(settings)


def test_a_class_without_fetch_is_announced_by_its_methods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The address that is printed is one that answers."""
    app = tmp_path / "app.py"
    app.write_text(
        "from perdure import DurableObject, Response\n\n\nclass Plain(DurableObject):\n"
        "    async def add(self) -> int:\n        return 1\n\n\nclass Both(Plain):\n"
        "    async def fetch(self, request):\n        return Response()\n"
    )
    loaded = load_app(app)
    types = [ObjectType(name, loaded.classes[name]) for name in ("Plain", "Both")]
    _announce(loaded, 1, types, as_json=False)
    shown = capsys.readouterr().out
    assert ":1/rpc/Plain/NAME/METHOD\n" in shown
    assert ":1/objects/Both/NAME\n" in shown


def test_what_a_client_proves_itself_with_reaches_the_worker_and_no_disk(tmp_path: Path) -> None:
    """`Authorization` and `Cookie` are the Worker's to check; passed on to an
    object they are dropped before the log.
    """
    headers = {"authorization": "Bearer t0psecret", "cookie": "session=c00kie", "x-plain": "written-down"}
    with (
        serve(deployed(tmp_path), tmp_path / "data") as server,
        httpx.Client(base_url=server.url, headers=headers) as client,
    ):
        url, seen = client.get("/headers?a=b").json()
        assert (seen["authorization"], seen["cookie"]) == ("Bearer t0psecret", "session=c00kie")
        assert url == f"{server.url}/headers?a=b"
        passed = client.post("/users/alice").json()["headers"]
        assert server.stop() == 0
    assert passed["x-plain"] == "written-down"
    assert {"authorization", "cookie"} & passed.keys() == set()
    written = b"".join(file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file())
    assert b"written-down" in written, "the disk holds requests in a form in which this test finds them"
    assert b"t0psecret" not in written
    assert b"c00kie" not in written


@pytest.mark.parametrize(
    ("path", "status", "title", "detail"),
    [
        ("/fail/x", 500, "worker failed", "the Worker failed: TypeError"),
        ("/exit", 500, "worker failed", "the Worker failed: RuntimeError"),
        ("/interrupt", 500, "worker failed", "the Worker failed: RuntimeError"),
        ("/number", 500, "worker failed", "fetch returned int, not a perdure.Response"),
        ("/object-fails/x", 500, "worker failed", "the Worker failed: HandlerFailed"),
        ("/object-refuses/x", 409, "not today", "not today"),
        ("/refuse", 409, "closed", "no"),
    ],
)
def test_what_a_worker_raises(
    place: Path, server: Server, path: str, status: int, title: str, detail: str
) -> None:
    """A Refusal is told as an object's is; anything else by its type alone, and the
    log of the process has the line.
    """
    answer = httpx.get(f"{server.url}{path}")
    told = answer.json()
    assert (answer.status_code, told["title"], told["detail"]) == (status, title, detail)
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert httpx.get(f"{server.url}/told").status_code == 200
    if path == "/fail/x":
        line = APP[: APP.index('rest["x"]')].count("\n") + 1
        lines = [json.loads(line) for line in server.stderr().splitlines()]
        (said,) = [line for line in lines if "KeyError" not in line.get("error", "KeyError")]
        assert (said["event"], said["at"]) == ("the Worker failed", f"{place}/app/app.py:{line}")
        assert said["error"].startswith("TypeError: string indices")


def test_a_worker_is_bounded_in_time_and_body(tmp_path: Path) -> None:
    """Past the deadline 504: what it asked of objects may have happened. A body
    over the limit never reaches it.
    """
    app = deployed(tmp_path)
    with serve(app, tmp_path / "data", environ={"PERDURE_DEADLINE_S": "0.3"}) as server:
        late = httpx.get(f"{server.url}/slow")
        assert (late.status_code, late.json()["title"]) == (504, "outcome unknown")
        assert "did not answer within 0.3 s" in late.json()["detail"]
        large = httpx.post(f"{server.url}/users/alice", content=b"x" * 1001)
        assert (large.status_code, large.json()["title"]) == (413, "too large")
        assert httpx.post(f"{server.url}/users/alice", content=b"x" * 1000).json()["seen"] == 1


def test_requests_run_beside_each_other(server: Server) -> None:
    """Fifty that wait for each other are all answered."""

    async def meet() -> list[str]:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            return [each.text for each in await asyncio.gather(*(client.get("/meet") for _ in range(50)))]

    assert asyncio.run(meet()) == ["met"] * 50


def test_a_client_that_goes_cancels_its_request(server: Server) -> None:
    """Nobody waits for the answer any more: the Worker's code is cancelled where it waits."""

    def told(what: str) -> Any:
        return client.get("/told").json()[what]

    async def go() -> None:
        async with httpx.AsyncClient(base_url=server.url) as gone:
            asking = asyncio.ensure_future(gone.get("/wait", timeout=20))
            await asyncio.to_thread(until, lambda: told("arrived"))
            asking.cancel()
            await asyncio.wait((asking,))

    with httpx.Client(base_url=server.url) as client:
        asyncio.run(go())
        until(lambda: told("cancelled"))


def test_calls_inherit_the_clients_key_trace_and_deadline(server: Server) -> None:
    """The same request under the same key finds what its first, second and third
    call did; without one it is anew.
    """
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with httpx.Client(base_url=server.url) as client:
        for key in ("k", "k", "x" * 255, "x" * 255):
            answers = client.post("/add/carol", headers={"idempotency-key": key}).json()
            assert answers == ([1, 11, 1] if key == "k" else [12, 22, 2])
        assert client.post("/add/carol").json() == [23, 33, 3]
        headers = {"idempotency-key": "k2", "traceparent": trace}
        key, passed, left_ms = client.get("/envelope", headers=headers).json()
    assert key.startswith("k2/")
    assert passed == trace
    assert 0 < left_ms <= 29_900


def test_what_a_worker_sent_is_durable_when_its_response_is_there(tmp_path: Path) -> None:
    """SIGKILL right behind the response: every send takes effect after the next start, under a key once."""
    app = deployed(tmp_path)
    with serve(app, tmp_path / "data") as server:
        assert httpx.post(f"{server.url}/send/alice", headers={"idempotency-key": "k"}).status_code == 202
        server.kill()
    with serve(app, tmp_path / "data", environ={"PERDURE_EXPOSE": "true"}) as server:
        assert httpx.post(f"{server.url}/send/alice", headers={"idempotency-key": "k"}).status_code == 202
        count = httpx.post(f"{server.url}/rpc/User/alice/count").json()
        assert count == {"result": 20}


def test_code_that_outlives_the_request_calls_nobody(server: Server) -> None:
    """A Task left behind by the Worker meets `TurnEnded`."""
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/later").text == "later"
        while not client.get("/told").json()["late"]:
            pass
        assert client.get("/told").json()["late"] == "TurnEnded"
        assert client.post("/add/someone").json()[0] == 1


def test_a_secret_is_the_code_s_and_nobody_else_s(tmp_path: Path) -> None:
    """The Worker has it as `env.NAME`; no page, no command and no output of the server shows it."""
    app = deployed(tmp_path)
    (app / "app.py").write_text(
        "from perdure import DurableObject, Response\n"
        "class User(DurableObject): pass\n"
        "class Room(DurableObject): pass\n"
        "async def fetch(request, env): return Response.json([len(env.API_KEY), repr(env)])\n"
    )
    (app / "perdure.toml").write_text(f'secrets = ["API_KEY"]\n{CONFIG}')
    environ = {"PERDURE_SECRETS__API_KEY": "h1dden"}
    with (
        serve(app, tmp_path / "data", environ=environ) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        assert client.get("/").json() == [6, "<env of API_KEY, ROOMS, Room, USERS, User>"]
        assert "h1dden" not in client.get("/metrics").text + client.get("/readyz").text
        assert server.stop() == 0
        assert "h1dden" not in server.stderr()
    shown = run("config", "show", str(app), environ=environ)
    assert 'secrets.API_KEY = "********"' in shown.stdout
    assert "h1dden" not in shown.stdout + shown.stderr
    written = b"".join(file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file())
    assert b"h1dden" not in written
