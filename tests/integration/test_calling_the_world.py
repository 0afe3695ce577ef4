"""What people call the world with works in every handler, from its first step on:
over a real server and in tests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.integration import callers_app
from tests.integration.callers_app import IN_REAL_TIME, WAYS, Caller, Starter
from tests.integration.elsewhere import services
from tests.process import Server, serve
from websockets.sync.client import connect

from perdure import testing
from perdure.testing import world

APP = Path(callers_app.__file__)
PATIENCE_S = 60.0  # an upper bound for what is waited for, never a pause
IN_TESTS = [name for name in WAYS if name not in IN_REAL_TIME]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app, and the services that it calls."""
    place = tmp_path_factory.mktemp("callers")
    config = f'main = "{APP.name}"\nname = "callers"\npartitions = 2\n[limits]\nstep_s = 20\n'  # the first client of a library imports what it needs
    (place / "app").mkdir()
    (place / "app" / APP.name).write_text(APP.read_text())
    (place / "app" / "perdure.toml").write_text(config)
    with (
        services() as url,
        serve(place / "app", place / "data", environ={"PERDURE_EXPOSE": "true", "ELSEWHERE": url}) as running,
    ):
        yield running


def called(server: Server, key: str, method: str, *args: object) -> object:
    answer = httpx.post(f"{server.url}/rpc/{key}/{method}", json={"args": args}, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


@pytest.mark.parametrize("when", ["first", "later"])
@pytest.mark.parametrize("name", WAYS)
def test_a_method_calls_the_world(server: Server, name: str, when: str) -> None:
    """As the first thing that it does, and after it has suspended."""
    assert called(server, "Caller/a", when, name) == "ok"


@pytest.mark.parametrize("name", WAYS)
def test_start_calls_the_world(server: Server, name: str) -> None:
    """In the first turn of its residence."""
    assert called(server, f"Starter/{name}", "told_at_start") == "ok"


def test_an_alarm_calls_the_world(server: Server) -> None:
    """In every way, one to a run."""
    called(server, "Caller/rings", "ring", list(WAYS))
    until = time.monotonic() + PATIENCE_S
    while len(told := dict(called(server, "Caller/rings", "told"))) < len(WAYS):  # type: ignore[call-overload]  # a dict
        assert time.monotonic() < until, told
    assert told == dict.fromkeys(WAYS, "ok")


def test_a_socket_calls_the_world(server: Server) -> None:
    """In the turn of each message."""
    with connect(
        server.url.replace("http", "ws") + "/objects/Caller/talks", open_timeout=PATIENCE_S
    ) as client:
        for name in WAYS:
            client.send(name)
            assert client.recv(PATIENCE_S) == "ok", name


@pytest.mark.parametrize("name", WAYS)
def test_the_worker_calls_the_world(server: Server, name: str) -> None:
    """It is no turn, and can all the same."""
    assert httpx.get(f"{server.url}/{name}", timeout=PATIENCE_S).text == "ok"


@pytest.mark.parametrize("name", IN_TESTS)
def test_a_handler_under_test_does_as_it_will_in_earnest(name: str) -> None:
    """With `perdure.testing`, on virtual time: in methods, at start and in alarms."""

    async def main() -> None:
        async with world(Caller, Starter) as env:
            caller = env.Caller.get("a")
            assert [await caller.first(name), await caller.later(name)] == ["ok", "ok"]
            assert await env.Starter.get(name).told_at_start() == "ok"
            await caller.ring([name])
            await env.advance(1)
            assert await caller.told() == {name: "ok"}

    testing.run(main())
