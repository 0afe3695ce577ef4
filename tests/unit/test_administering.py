"""What the commands of administration print of what a server answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from perdure.api.cli import main
from perdure.api.problems import problem_of
from perdure.schemas.errors import Forbidden, NotAtHead, Overloaded, PerdureError

Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Told:
    """Run a command to which a server answers so: its exit code, and what it prints on stdout and stderr."""

    def run(answer: httpx.Response, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(httpx, "request", lambda *_, **__: answer)
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capfd.readouterr()

    return run


@pytest.mark.parametrize(
    "error",
    [Forbidden("no right: get one"), NotAtHead("not there: look again"), Overloaded("full: ask again")],
)
def test_an_error_of_the_server_is_told_as_every_other(error: PerdureError, told: Told) -> None:
    """By its own code and its own text, in one line, with the exit code of what failed outside."""
    status, headers, body = problem_of(error)
    answer = httpx.Response(status, headers=list(headers), content=body)
    assert told(answer, "objects", "skip", "A/a", "1", "-y") == (1, "", f"perdure: {error.code}: {error}\n")


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://x", "http://x:y"])
def test_a_url_that_is_none_is_a_wrong_argument(url: str, told: Told) -> None:
    """As `connect` has it; nothing is asked."""
    code, out, err = told(httpx.Response(200, json={"partitions": []}), "partitions", "--url", url)
    assert (code, out) == (2, "")
    assert err.startswith(f'perdure: config-error: "{url}"')


def test_an_answer_of_something_else_is_the_operators_to_mend(told: Told) -> None:
    """It is not taken for an error of perdure's."""
    code, out, err = told(httpx.Response(404, json={"detail": "nope"}), "partitions", "--url", "http://x")
    assert (code, out) == (1, "")
    assert err == (
        "perdure: operator-error: http://x answered 404, which is not an answer of a perdure server: check the URL\n"
    )


@pytest.mark.parametrize(
    ("command", "answered", "said"),
    [
        ("objects list A", {"objects": []}, "objects in A"),
        ("objects list A --prefix b", {"objects": []}, "objects in A that begin with b"),
        ("objects state A/a", {"values": {}, "expires_ms": {}}, "values in A/a"),
        ("objects alarms A/a", {"alarms": []}, "alarms of A/a"),
        ("objects sockets A/a", {"sockets": []}, "WebSockets of A/a"),
        ("objects turns A/a", {"turns": []}, "turns of A/a that changed something or failed"),
        ("parked list", {"parked": []}, "parked commands or alarms"),
    ],
)
def test_of_what_there_is_none_one_line_says_so(
    command: str, answered: dict[str, Any], said: str, told: Told
) -> None:
    """On stderr, as it is no data; `--json` prints what was answered, and an empty
    page that goes on is not the end.
    """
    arguments = command.split()
    answer = httpx.Response(200, json=answered)
    assert told(answer, *arguments) == (0, "", f"no {said}\n")
    code, out, err = told(answer, *arguments, "--json")
    assert (code, json.loads(out), err) == (0, answered, "")
    more = httpx.Response(200, json={**answered, "cursor": "c"})
    assert told(more, *arguments) == (0, "", "more: --cursor c\n")


def test_times_are_such_as_people_read(told: Told) -> None:
    """In UTC, to the millisecond; `--json` has what was answered, as do values of
    an object, whatever they are called.
    """
    turn = {"time_ms": 1_767_312_000_007, "outcome": "ok", "principal": None}
    answer = httpx.Response(200, json={"turns": [turn], "cursor": None})
    assert told(answer, "objects", "turns", "A/a")[1] == "time=2026-01-02T00:00:00.007Z  outcome=ok\n"
    assert json.loads(told(answer, "objects", "turns", "A/a", "--json")[1])["turns"] == [turn]
    late = httpx.Response(200, json={"alarms": [{"name": "x", "due_ms": 10**17}]})
    assert told(late, "objects", "alarms", "A/a")[1] == f"name=x  due_ms={10**17}\n"
    kept = httpx.Response(200, json={"values": {"time_ms": 7}})
    assert told(kept, "objects", "state", "A/a")[1] == "time_ms = 7\n"
    shown = httpx.Response(200, json={"object": "A/a", "paused": {"since_ms": 0, "by": "x"}})
    assert '"since": "1970-01-01T00:00:00.000Z"' in told(shown, "objects", "show", "A/a")[1]
