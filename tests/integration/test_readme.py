"""What the README says to type and to write, typed and written as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.process import Server, serve
from websockets.sync.client import connect

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PATIENCE_S = 20
BINDING = '[[durable_objects.bindings]]\nname = "ROOMS"\nclass_name = "Room"\n'


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What `make run` serves."""
    with serve(ROOT / "examples", tmp_path_factory.mktemp("data")) as server:
        yield server
        assert server.stop() == 0


def section(title: str) -> str:
    """The text under a heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## )", README, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def typed(server: Server, line: str) -> str:
    """What a line of the README prints, with the port of this server instead of 8787."""
    line = line.replace("http://127.0.0.1:8787", server.url)
    if "perdure call" in line:
        line = f"{line} --url {server.url}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=True, cwd=ROOT, timeout=PATIENCE_S
    )
    return done.stdout


def test_what_is_to_be_tried_works_as_pasted(examples: Server) -> None:
    """Each line under "Try it", one after the other, up to the kill."""
    lines = re.findall(r"^    ((?:curl|\.venv/bin/perdure) .*)$", section("Try it"), re.MULTILINE)
    said = [typed(examples, line) for line in lines[:-1]]
    assert [json.loads(each) for each in said[:3]] == [{"count": 0}, {"count": 1}, {"result": 3}]
    assert json.loads(said[3]) == 5
    assert "urn:perdure:problem:invalid-arguments" in said[4]
    assert "urn:perdure:problem:unknown-namespace" in said[5]
    assert json.loads(said[6]) == json.loads(said[7]) == {"count": 6}
    assert json.loads(typed(examples, lines[-1])) == {"count": 6}
    assert len(lines) == 9


def test_the_examples_have_a_worker_at_their_root(examples: Server) -> None:
    """It says what it answers, and answers that; the objects are open beside it."""
    root = httpx.get(examples.url)
    assert (root.status_code, "/users/alice" in root.text) == (404, True)
    assert httpx.get(f"{examples.url}/users/alice").json() == {"user": "alice", "visits": 1, "rooms": []}
    assert httpx.get(f"{examples.url}/rooms/lobby/alice").json() == {"inside": 1}


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Server]:
    """The room and the Worker of the README as one app; the room is also reached without the Worker."""
    room, worker = (
        next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if word in block)
        for word in ("class Room(", "async def fetch(request: Request, env")
    )
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "app.py").write_text(f"{room}\n{worker}")
    (folder / "perdure.toml").write_text(
        'main = "app.py"\nname = "readme"\nexpose = true\nsecrets = ["TOKEN"]\n'
        f'[vars]\nRATES_URL = "http://127.0.0.1:1/"\n{BINDING}'
    )
    with serve(folder, tmp_path / "data", environ={"PERDURE_SECRETS__TOKEN": "sesame"}) as server:
        yield server
        assert server.stop() == 0


def test_the_room_and_the_worker_of_the_readme_serve(written: Server) -> None:
    """Two guests hear each other in one order; the Worker wants its token, and says what it cannot reach."""
    url = written.url.replace("http", "ws") + "/objects/Room/lobby"
    with connect(url) as one, connect(url) as other:
        one.send("hello")
        assert one.recv(PATIENCE_S) == other.recv(PATIENCE_S) == "1: hello"
        other.send("and hello")
        assert one.recv(PATIENCE_S) == other.recv(PATIENCE_S) == "2: and hello"
    assert httpx.get(f"{written.url}/lobby").status_code == 401
    token = {"authorization": "Bearer sesame"}
    answer = httpx.get(f"{written.url}/rates", headers=token)
    assert (answer.status_code, answer.text[:16]) == (502, "no rates today: ")
