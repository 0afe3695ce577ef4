"""The record of what happened, of a real server: histories, states of the past, the log and its events."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.integration.test_admin import PATIENCE_S, call, look, written
from tests.process import Server, run, serve, until


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("app"))


def cli(*arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def changes(page: Any) -> list[tuple[Any, Any]]:
    turns = [each["changes"]["count"] for each in page["turns"]]
    return [(each.get("before"), each.get("after")) for each in turns]


def test_what_happened_is_known_on_the_server_beside_it_and_without_it(app: Path, tmp_path: Path) -> None:
    """History, a state of the past and a difference are the same over HTTP, beside the server and offline."""
    data = tmp_path / "data"
    place = ("--app", str(app), "--data", str(data))
    with serve(app, data) as server:
        for by in (1, 2, 3):
            assert call(server, "Counter/alice", "add", by).json() == {"result": sum(range(by + 1))}
        call(server, "Room/x", "noop")
        history = look(server, "history/Counter/alice")
        assert changes(history) == [(3, 6), (1, 3), (None, 1)]
        assert [each["args"] for each in history["turns"]] == [[3], [2], [1]]
        assert all(each["code"] for each in history["turns"])
        first = look(server, "history/Counter/alice", limit="1")
        assert changes(look(server, "history/Counter/alice", limit="9", cursor=first["cursor"])) == [
            (1, 3),
            (None, 1),
        ]
        _, offset = history["turns"][1]["journal"].split(":")
        at = f"offset:{offset}"
        state = look(server, "state/Counter/alice", at=at)
        assert state["values"] == {"count": 1}
        assert look(server, "state/Counter", at="now")["objects"] == [
            {"object": "Counter/alice", "values": {"count": 6}}
        ]
        difference = look(server, "diff/Counter/alice", **{"from": at})
        assert difference["objects"] == [
            {"object": "Counter/alice", "changes": {"count": {"before": 1, "after": 6}}}
        ]
        assert cli("history", "Counter/alice", "--url", server.url) == history
        beside = cli("history", "Counter/alice", *place)
        assert changes(beside) == changes(history)
        assert httpx.get(f"{server.url}/admin/state/Counter/alice?when=now").status_code == 400
        assert httpx.get(f"{server.url}/admin/log/nothing").status_code == 404
    assert cli("history", "Counter/alice", *place)["turns"] == history["turns"]
    assert cli("state", "show", "Counter/alice", "--at", at, *place) == state
    assert cli("diff", "Counter", "--from", at, *place) == difference
    shown = run("history", "Counter/alice", *place)
    assert "add(3)" in shown.stdout
    assert "count: 3 -> 6" in shown.stdout


def test_the_log_is_paged_and_followed(app: Path, tmp_path: Path) -> None:
    """`/admin/log` has the last records and leads to older ones; its events go on until the server ends."""
    with serve(app, tmp_path / "data") as server:
        for by in range(5):
            call(server, "Counter/bob", "add", by)
        page = look(server, "log", type="entry", limit="2")
        assert [each["result"] for each in page["records"]] == [6, 10]
        older = look(server, "log", type="entry", limit="2", cursor=page["cursor"])
        assert [each["result"] for each in older["records"]] == [1, 3]
        assert look(server, "log", where='args == [4] and outcome == "ok"')["records"][0]["result"] == 10
        assert httpx.get(f"{server.url}/admin/log?where=import").status_code == 400
        seen: list[dict[str, Any]] = []
        opened = threading.Event()
        follower = threading.Thread(target=_follow, args=(server, seen, opened))
        follower.start()
        assert opened.wait(PATIENCE_S)
        call(server, "Counter/bob", "add", 7)
        call(server, "Counter/eve", "add", 1)
        until(lambda: seen, PATIENCE_S)
        assert [each["result"] for each in seen] == [17]
        assert server.stop() == 0
        follower.join(PATIENCE_S)
        assert not follower.is_alive()


def _follow(server: Server, seen: list[dict[str, Any]], opened: threading.Event) -> None:
    query = {"object": "Counter/bob", "type": "entry"}
    try:
        with httpx.stream(
            "GET", f"{server.url}/admin/log/events", params=query, timeout=PATIENCE_S
        ) as answer:
            for line in answer.iter_lines():
                opened.set()
                if line.startswith("data: "):
                    seen.append(json.loads(line.removeprefix("data: ")))
    except httpx.HTTPError:
        pass  # the server ended


def test_a_line_is_written_for_each_request(app: Path, tmp_path: Path) -> None:
    """Method, path, status and time, of objects and of pages; what looks like a credential is masked."""
    (app / "perdure.toml").write_text("access_log = true\n" + (app / "perdure.toml").read_text())
    with serve(app, tmp_path / "data") as server:
        for _ in range(2):
            call(server, "Counter/dave", "add", 1)
        httpx.get(f"{server.url}/objects/Counter/dave?token=abcdefgh")
        httpx.get(f"{server.url}/livez")
        assert server.stop() == 0
        lines = [line for line in server.stderr().splitlines() if "Counter/dave" in line or "livez" in line]
    assert [("POST" in line, "status" in line) for line in lines] == [(True, True)] * 2 + [(False, True)] * 2
    assert "abcdefgh" not in "".join(lines)
    assert '"ms"' in lines[0] or "ms=" in lines[0]
