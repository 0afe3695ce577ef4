"""The console of a real server: what its pages show and do, and who may see them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from tests.integration.test_access import deployed, lines, token
from tests.integration.test_admin import PATIENCE_S, call, look, written
from tests.process import Server, serve

HTML = {"accept": "text/html,application/xhtml+xml"}
PATHS = ("/console", "/console/objects", "/console/log", "/console/partitions", "/console/sql")


def page(server: Server, path: str, status: int = 200) -> str:
    answer = httpx.get(f"{server.url}{path}", headers=HTML, timeout=PATIENCE_S)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["cache-control"] == "no-store"
    return answer.text


def send(server: Server, path: str, **form: str) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", data=form, timeout=PATIENCE_S)


def test_an_object_is_seen_through_its_history_and_changed(tmp_path: Path) -> None:
    """Each turn with its change, the state behind it, calls and acts that have to be confirmed."""
    app = written(tmp_path)
    with serve(app, tmp_path / "data") as server:
        for by in (1, 2):
            call(server, "Counter/alice", "add", by)
        call(server, "Counter/alice", "add", "not a number")
        path = "/console/objects/Counter/alice"
        newest = look(server, "history/Counter/alice")["turns"]
        first = next(turn for turn in newest if turn.get("result") == 1)["journal"].partition(":")[2]
        now = page(server, path)
        assert "State now" in now
        assert "<code>1 → 3</code>" in now
        then = page(server, f"{path}?at={first}")
        assert '<tr class="changed"><th scope="row">count</th><td><code>1</code></td>' in then
        assert f"perdure state show Counter/alice --at offset:{int(first) + 1}" in then
        called = send(server, path, act="call", method="add", args="[10]")
        assert "{&#34;result&#34;:13}" in called.text
        assert "has no method" in send(server, path, act="call", method="fly", args="[]").text
        assert send(server, path, act="call", method="add", args="10").status_code == 400
        assert "Its commands wait" in page(server, f"{path}?confirm=pause")
        assert look(server, "objects/Counter/alice")["paused"] is None  # to ask changes nothing
        done = send(server, path, act="pause")
        assert (done.status_code, done.headers["location"]) == (303, path)
        assert '<b class="failed">Paused</b>' in page(server, path)
        assert "1 object paused" in page(server, "/console")
        send(server, path, act="resume")
        assert send(server, path, act="delete").status_code == 303
        assert "It is not there" in page(server, path)
        assert "<code>13 → removed</code>" in page(server, path)


def test_problems_are_listed_by_their_error(tmp_path: Path) -> None:
    """Failed turns by their error; names and messages of the app are text, whatever is in them."""
    app = written(tmp_path)
    (app / "app.py").write_text(
        (app / "app.py").read_text()
        + """
    async def bug(self):
        raise RuntimeError("<script>alert(1)</script>")
"""
    )
    with serve(app, tmp_path / "data") as server:
        assert "nothing is parked" in page(server, "/console")
        name = "%3Cb%3E%22%27"
        call(server, f"Room/{name}", "bug")
        shown = page(server, "/console")
        assert "handler-failed" in shown
        assert "<script>alert" not in shown
        assert "/console/objects/Room/%3Cb%3E%22%27?at=" in shown
        assert "<h1>Room/&lt;b&gt;&#34;&#39;</h1>" in page(server, f"/console/objects/Room/{name}")
        assert "is not a path" in page(server, "/console/nothing", 404)
        assert "unknown query parameter" in page(server, "/console/log?colour=red", 400)
        assert "handler-failed" in page(server, "/console/log?outcome=failed")
        for path in PATHS:
            assert "<h1>" in page(server, path)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guarded")
    return deployed(folder / "app", lines("ops", "admin"), lines("reader", "read:Room"), worker=True)


def test_a_browser_signs_in_with_a_token(guarded: Path, tmp_path: Path) -> None:
    """Its cookie opens the pages for people, by the rights of the token, and nothing else."""
    with serve(guarded, tmp_path / "data") as server:
        refused = httpx.get(f"{server.url}/console")
        assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
        asked = httpx.get(f"{server.url}/console/log?outcome=ok", headers=HTML)
        assert asked.status_code == 401
        assert 'name="next" value="/console/log?outcome=ok"' in asked.text
        with httpx.Client(base_url=server.url, headers=HTML, timeout=PATIENCE_S) as client:
            wrong = client.post("/console/login", data={"token": "pdr_" + "x" * 43, "next": "/console"})
            assert (wrong.status_code, "not valid" in wrong.text, wrong.cookies) == (
                401,
                True,
                httpx.Cookies(),
            )
            signed = client.post(
                "/console/login", data={"token": token("ops"), "next": "/console/log?outcome=ok"}
            )
            assert (signed.status_code, signed.headers["location"]) == (303, "/console/log?outcome=ok")
            cookies = signed.headers.get_list("set-cookie")
            assert all("; HttpOnly; SameSite=Strict" in each for each in cookies)
            assert [each.rpartition("Path=")[2].partition(";")[0] for each in cookies] == [
                "/console",
                "/docs",
                "/openapi.json",
            ]
            for path in (*PATHS, "/docs", "/openapi.json"):
                assert client.get(path).status_code == 200
            assert "Sign out" in client.get("/console").text
            cookie = {"cookie": f"perdure_token={token('ops')}"}  # as no browser would send it there
            for path in ("/admin/namespaces", "/objects/Room/a", "/metrics"):
                assert client.get(path, headers=cookie).status_code == 401
            assert client.get("/worker").json() == [None, ""]
            foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
            done = client.post("/console/objects/Room/a", data={"act": "delete"}, headers=foreign)
            assert done.status_code == 403
            assert client.post("/console/logout").status_code == 303
            assert client.get("/console").status_code == 401
        with httpx.Client(base_url=server.url, headers=HTML, timeout=PATIENCE_S) as client:
            assert client.post("/console/login", data={"token": token("reader")}).status_code == 303
            assert client.get("/docs").status_code == 200
            lacking = client.get("/console")
            assert (lacking.status_code, "reader" in lacking.text) == (403, True)


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/console",
        "/console//evil",
        "/\\evil",
        "/admin",
        "/console\r\nx: y",
    ],
)
def test_a_sign_in_leads_to_a_page_of_this_server_only(guarded: Path, target: str, server: Server) -> None:
    """Not to another site, nor to a page that the cookie is not for."""
    done = httpx.post(f"{server.url}/console/login", data={"token": token("ops"), "next": target})
    assert done.headers["location"] == "/console"


@pytest.fixture(scope="module")
def server(guarded: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with serve(guarded, tmp_path_factory.mktemp("data")) as running:
        yield running
