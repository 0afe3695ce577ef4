"""Administration of a real server, over HTTP and by its commands: what is seen, and
what is done, over a SIGKILL too.
"""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from tests.integration.test_access import lines, token
from tests.process import Server, run, serve, until

PATIENCE_S = 30.0
APP = """
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

from perdure import DurableObject

class Counter(DurableObject):
    async def add(self, by: int = 1):
        count = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        return count

    async def keep(self):
        await self.state.put("when", datetime(2026, 1, 2, tzinfo=UTC))
        await self.state.put("raw", b"xyz")
        await self.state.put("pair", (1, 2))
        await self.state.set_alarm(self.state.now + 3_600_000, name="tea")

    async def clear(self):
        await self.state.delete_all()

    async def alarm(self, info):
        pass

class Room(DurableObject):
    async def noop(self):
        pass

    async def fall(self, mended: str):
        await self.state.sync()  # so that this command is on the log for good
        if not Path(mended).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        await self.state.put("fell", await self.state.get("fell", 0) + 1)
"""


def written(folder: Path, *config: str, log: str = "embedded") -> Path:
    (folder / "app.py").write_text(APP)
    head = f'main = "app.py"\nname = "t{uuid4().hex[:12]}"\npartitions = 3\nlog = "{log}"\n'
    (folder / "perdure.toml").write_text(head + "\n".join(config))
    return folder


def call(server: Server, key: str, method: str, *args: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/rpc/{key}/{method}", json={"args": args}, timeout=PATIENCE_S)


def look(server: Server, path: str, **query: str) -> Any:
    answer = httpx.get(f"{server.url}/admin/{path}", params=query, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def act(server: Server, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/admin/{path}", json=body or None, timeout=PATIENCE_S)


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


def test_objects_are_found_page_by_page_with_what_they_keep(tmp_path: Path) -> None:
    """Written out or not, over a restart too; an object that has nothing any more is not there."""
    app = written(tmp_path)
    names = [f"a{number:02}" for number in range(12)] + ["ü"]
    with serve(app, tmp_path / "data") as server:
        for name in names:
            assert call(server, f"Counter/{name}", "add").status_code == 200
        for name in ("a02", "gone"):
            call(server, f"Counter/{name}", "keep")
        call(server, "Counter/gone", "clear")
        call(server, "Room/quiet", "noop")
        _are_found(server, names)
        assert server.stop() == 0
    with serve(app, tmp_path / "data") as server:
        _are_found(server, names)
        call(server, "Counter/a00", "clear")
        assert look(server, "objects/Counter", limit="1")["objects"] == ["a01"]
        assert look(server, "namespaces")["namespaces"] == [
            {"name": "Counter", "class": "Counter"},
            {"name": "Room", "class": "Room"},
        ]
        told = look(server, "partitions")
        assert [each["state"] for each in told["partitions"]] == ["serving"] * 3
        assert sum(each["watermark"] for each in told["partitions"]) > len(names)
        assert told["bytes"]["journal"] > 0
        assert look(server, "memory")["process_bytes"] > 0
        assert look(server, "config")["partitions"] == 3
        refused = httpx.get(f"{server.url}/admin/snapshots")
        assert refused.status_code == 404
        assert "has no [snapshots]" in refused.json()["detail"]
        for path in (
            "objects/Nothing",
            "nothing",
            "objects/Counter/a/nothing",
            "objects/Counter/a/state/more",
        ):
            assert httpx.get(f"{server.url}/admin/{path}").status_code == 404, path
        for query in ("limit=0", "limit=x", "cursor=!", "wrong=1"):
            answer = httpx.get(f"{server.url}/admin/objects/Counter?{query}")
            assert problem(answer) == (400, "malformed-command"), query
        assert httpx.put(f"{server.url}/admin/objects/Counter/a").status_code == 405


def _are_found(server: Server, names: list[str]) -> None:
    found: list[str] = []
    cursor = ""
    while True:
        page = look(server, "objects/Counter", limit="5", cursor=cursor)
        found += page["objects"]
        if (cursor := page["cursor"]) is None:
            break
    assert found == names
    assert look(server, "objects/Room")["objects"] == []
    assert look(server, "objects/Counter", prefix="a1")["objects"] == ["a10", "a11"]
    told = look(server, "objects/Counter/a02/state")
    assert told["values"] == {
        "count": 1,
        "pair": {"$tuple": [1, 2]},
        "raw": {"$bytes": "eHl6"},
        "when": {"$datetime": "2026-01-02T00:00:00+00:00"},
    }
    first = look(server, "objects/Counter/a02/state", limit="1")
    assert list(first["values"]) == ["count"]
    rest = look(server, "objects/Counter/a02/state", cursor=first["cursor"], prefix="r")
    assert list(rest["values"]) == ["raw"]
    assert [each["name"] for each in look(server, "objects/Counter/a02/alarms")["alarms"]] == ["tea"]
    assert look(server, "objects/Counter/a02/sockets") == {"sockets": []}
    summary = look(server, "objects/Counter/a02")
    assert (summary["there"], summary["alarms"], summary["paused"]) == (True, 1, None)
    assert not look(server, "objects/Counter/gone")["there"]


def test_a_paused_object_stays_so_over_a_kill_until_it_is_resumed_and_one_is_deleted(
    tmp_path: Path, log: str
) -> None:
    """What waited is done then, once; a command is given up by its offset; the data is whole after it all."""
    app, data = written(tmp_path, log=log), tmp_path / "data"
    with serve(app, data) as server, ThreadPoolExecutor() as threads:
        call(server, "Counter/a", "add")
        assert act(server, "objects/Counter/a/pause").json() == {"paused": "Counter/a"}
        waiting = [threads.submit(call, server, "Counter/a", "add", 10)]
        until(lambda: look(server, "objects/Counter/a")["waiting"] == 1)
        accepted = httpx.post(
            f"{server.url}/rpc/Counter/a/add", json={"args": [100]}, headers={"prefer": "respond-async"}
        )
        assert accepted.status_code == 202
        until(lambda: look(server, "objects/Counter/a")["waiting"] == 2)
        assert call(server, "Counter/b", "add").json() == {"result": 1}
        server.kill()
        assert isinstance(waiting[0].exception(PATIENCE_S), httpx.HTTPError)
    with serve(app, data) as server:
        # a node is ready before all that lies on its topics has come to it
        until(lambda: look(server, "objects/Counter/a")["waiting"] == 2)
        told = look(server, "objects/Counter/a")
        assert (told["waiting"], told["paused"]["by"]) == (2, "")
        assert [each["summary"] for each in look(server, "objects/Counter/a/turns")["turns"]] == [
            "admin pause ",
            "call add ",
        ]
        assert look(server, "objects/Counter/a/state")["values"] == {"count": 1}
        first, second = told["next"]
        assert problem(act(server, "objects/Counter/a/skip")) == (400, "malformed-command")
        assert problem(act(server, "objects/Counter/a/skip", offset=second)) == (409, "not-at-head")
        beyond = act(server, "objects/Counter/a/skip", offset=10**18)
        assert problem(beyond) == (400, "malformed-command")
        assert "is not the offset of a command" in beyond.text
        assert act(server, "objects/Counter/a/skip", offset=first).status_code == 200
        assert act(server, "objects/Counter/a/resume").json() == {"resumed": "Counter/a"}
        assert call(server, "Counter/a", "add").json() == {"result": 102}
        assert look(server, "objects/Counter/a")["paused"] is None
        answer = httpx.delete(f"{server.url}/admin/objects/Counter/a", timeout=PATIENCE_S)
        assert answer.json() == {"deleted": "Counter/a", "sockets": 0}
        assert answer.headers["perdure-command"].partition(":")[0] == str(told["partition"])
        assert not look(server, "objects/Counter/a")["there"]
        assert look(server, "objects/Counter")["objects"] == ["b"]
        assert look(server, "parked") == {"parked": [], "cursor": None}
        assert problem(act(server, "parked/0:5/redrive")) == (404, "not-parked")
        assert problem(act(server, "parked/7:5/drop")) == (400, "malformed-command")
        assert server.stop() == 0
    done = run("verify", str(app), "--data", str(data))
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_last_turns_of_an_object_are_told_page_by_page(tmp_path: Path) -> None:
    """The newest first, those of its neighbours left out; what only read left none."""
    app = written(tmp_path)
    with serve(app, tmp_path / "data") as server:
        for by in range(1, 6):
            call(server, "Counter/a", "add", by)
            call(server, "Counter/b", "add", by)
        call(server, "Counter/a", "clear")
        call(server, "Counter/a", "add", "x")
        call(server, "Room/a", "noop")
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = look(server, "objects/Counter/a/turns", limit="3", cursor=cursor)
            found += page["turns"]
            assert len(page["turns"]) <= 3
            if (cursor := page["cursor"]) is None:
                break
        outcomes = [(each["outcome"], each["code"], each["cleared"], each["put"]) for each in found]
        assert outcomes == [
            ("rejected", "invalid-arguments", False, []),
            ("ok", None, True, []),
            *[("ok", None, False, ["count"])] * 5,
        ]
        assert [each["journal"] for each in found] == sorted(
            (each["journal"] for each in found), reverse=True
        )
        assert look(server, "objects/Room/a/turns") == {"turns": [], "cursor": None}
        answer = httpx.get(f"{server.url}/admin/objects/Counter/a/turns?cursor=x")
        assert problem(answer) == (400, "malformed-command")


def test_the_right_admin_is_needed_and_enough(tmp_path: Path) -> None:
    """For what is read and for what is done; 401 for nobody, 403 for somebody else."""
    app = written(tmp_path, lines("boss", "admin"), lines("user", "call:*", "read:*", "metrics"))
    paths = (("GET", "objects/Counter"), ("GET", "config"), ("POST", "objects/Counter/a/pause"),
             ("DELETE", "objects/Counter/a"), ("POST", "parked/0:1/drop"))  # fmt: skip
    with serve(app, tmp_path / "data") as server:

        def status(method: str, path: str, name: str) -> int:
            headers = {"authorization": f"Bearer {token(name)}"} if name else {}
            return httpx.request(
                method, f"{server.url}/admin/{path}", headers=headers, timeout=PATIENCE_S
            ).status_code

        for method, path in paths:
            assert status(method, path, "") == 401, path
            assert status(method, path, "user") == 403, path
            assert status(method, path, "boss") == (404 if "parked" in path else 200), path
        done = run(
            "objects",
            "show",
            "Counter/a",
            "--url",
            server.url,
            "--json",
            environ={"PERDURE_TOKEN": token("boss")},
        )
        assert json.loads(done.stdout)["paused"]["by"] == "boss"
        done = run("objects", "show", "Counter/a", "--url", server.url, "--token", token("user"))
        assert done.returncode == 1
        assert done.stderr == (
            "perdure: forbidden: this needs the right admin, which user does not have: give it that scope\n"
        )
        assert token("user") not in done.stderr


def test_the_commands_do_what_the_pages_do(tmp_path: Path) -> None:
    """What loses something is asked about, or needs --yes."""
    app = written(tmp_path)
    with serve(app, tmp_path / "data") as server:

        def told(*arguments: str, code: int = 0) -> str:
            done = run(*arguments, environ={"PERDURE_URL": server.url})
            assert done.returncode == code, done.stderr
            return done.stderr if code else done.stdout

        call(server, "Counter/ä b", "add")
        assert told("objects", "list", "Counter") == "ä b\n"
        assert json.loads(told("objects", "state", "Counter/ä b", "--json"))["values"] == {"count": 1}
        assert 'put=["count"]' in told("objects", "turns", "Counter/ä b")
        assert "watermark=" in told("partitions")
        assert "process_bytes = " in told("memory")
        assert told("parked", "list") == ""
        assert told("objects", "pause", "Counter/ä b") == 'paused = "Counter/ä b"\n'
        assert told("objects", "resume", "Counter/ä b") == 'resumed = "Counter/ä b"\n'
        assert "add --yes" in told("objects", "delete", "Counter/ä b", code=2)
        assert look(server, "objects/Counter")["objects"] == ["ä b"]
        told("objects", "delete", "Counter/ä b", "--yes")
        assert look(server, "objects/Counter")["objects"] == []
        assert told("parked", "redrive", "0:1", code=1).startswith(
            "perdure: not-parked: nothing is parked at 0:1"
        )
        assert "does not name an object" in told("objects", "show", "Counter", code=2)
        url = server.url
    assert "no server answers" in run("partitions", "--url", url).stderr


def test_a_parked_command_is_seen_and_driven_again_and_another_is_dropped(tmp_path: Path, log: str) -> None:
    """Each once; driven again it is done, and nothing is parked in the end."""
    app, data = written(tmp_path, "[limits]\ncharges = 1\n", log=log), tmp_path / "data"
    mended = tmp_path / "mended"
    for key in ("a", "b"):
        with serve(app, data) as server, contextlib.suppress(httpx.HTTPError):
            call(server, f"Room/{key}", "fall", str(mended))
        assert server.wait() != 0
    mended.touch()
    with serve(app, data) as server:
        until(lambda: len(look(server, "parked")["parked"]) == 2)
        one = look(server, "parked", limit="1")
        two = look(server, "parked", cursor=one["cursor"])
        by_object = {each["object"]: each for each in one["parked"] + two["parked"]}
        assert by_object.keys() == {"Room/a", "Room/b"}
        assert {each["code"] for each in by_object.values()} == {"parked"}
        ids = {key: each["id"] for key, each in by_object.items()}
        assert act(server, f"parked/{ids['Room/a']}/redrive").json() == {"redriven": ids["Room/a"]}
        assert act(server, f"parked/{ids['Room/b']}/drop").json() == {"dropped": ids["Room/b"]}
        assert look(server, "parked")["parked"] == []
        assert problem(act(server, f"parked/{ids['Room/a']}/redrive")) == (404, "not-parked")
        until(lambda: look(server, "objects/Room")["objects"] == ["a"])
        assert look(server, "objects/Room/a/state")["values"] == {"fell": 1}
        assert server.stop() == 0
    done = run("verify", str(app), "--data", str(data))
    assert done.returncode == 0, done.stderr + done.stdout
