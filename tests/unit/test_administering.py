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


def test_an_answer_of_something_else_is_the_operators_to_mend(told: Told) -> None:
    """It is not taken for an error of perdure's."""
    code, out, err = told(httpx.Response(404, json={"detail": "nope"}), "partitions", "--url", "http://x")
    assert (code, out) == (1, "")
    assert err == "perdure: operator-error: http://x answered 404, which is no answer of perdure's\n"
