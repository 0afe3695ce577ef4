"""Codes become statuses in one place: 503 = not done, 504 = unknown, 507 = the
disk, the rest by whose fault it is.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from perdure.api.problems import problem, problem_of, problem_of_reply
from perdure.schemas import errors
from perdure.schemas.errors import PerdureError
from perdure.schemas.replies import FAILED, REFUSED, REJECTED, UNAVAILABLE, ErrorInfo

AT_THE_DOOR = {
    errors.BadKey: 400,
    errors.MalformedCommand: 400,
    errors.UnknownNamespace: 404,
    errors.UnknownMethod: 404,
    errors.KeyConflict: 409,
    errors.TooLarge: 413,
    errors.InvalidArguments: 422,
    errors.KeyReused: 422,
    errors.Unavailable: 503,
    errors.Overloaded: 503,
    errors.Expired: 503,
    errors.AskAgain: 503,
    errors.Fenced: 503,
    errors.LogCorrupt: 503,
    errors.LogUnreachable: 503,
    errors.StoreCorrupt: 503,
    errors.OutcomeUnknown: 504,
    errors.StorageFailed: 507,
}


@pytest.mark.parametrize(
    ("error", "status"), AT_THE_DOOR.items(), ids=lambda each: getattr(each, "__name__", each)
)
def test_an_error_at_the_door_has_its_status(error: type[PerdureError], status: int) -> None:
    """Before or instead of a reply; what was not done may be asked again, and says when."""
    found, headers, body = problem_of(error("why"))
    told = json.loads(body)
    assert (found, told["status"], told["detail"]) == (status, status, "why")
    assert told["type"] == f"urn:perdure:problem:{error.code}"
    assert (b"content-type", b"application/problem+json") in headers
    assert (b"retry-after" in dict(headers)) == (status == 503)


def test_an_unknown_outcome_names_its_command() -> None:
    """In the problem and as the location; only if it is known."""
    _, headers, body = problem_of(errors.OutcomeUnknown("why", "0-1-n-0"))
    assert json.loads(body)["command"] == "/commands/0-1-n-0"
    assert dict(headers)[b"location"] == b"/commands/0-1-n-0"
    _, headers, body = problem_of(errors.OutcomeUnknown("why"))
    assert "command" not in json.loads(body)
    assert b"location" not in dict(headers)


REPLIES = [
    (REFUSED, "refused", 409),
    (REFUSED, "empty", 409),
    (REFUSED, "bad-body", 400),
    (REFUSED, "storage-failed", 409),
    (REFUSED, "outcome-unknown", 409),
    (REFUSED, "too-large", 409),
    (FAILED, "handler-failed", 500),
    (FAILED, "bad-reply", 500),
    (FAILED, "too-large", 500),
    (FAILED, "outcome-unknown", 500),
    (FAILED, "storage-failed", 500),
    (REJECTED, "invalid-arguments", 422),
    (REJECTED, "unknown-method", 404),
    (REJECTED, "key-in-flight", 409),
    (REJECTED, "key-reused", 422),
    (REJECTED, "malformed-command", 400),
    (UNAVAILABLE, "expired", 503),
    (UNAVAILABLE, "ask-again", 503),
    (UNAVAILABLE, "storage-failed", 507),
]


@pytest.mark.parametrize(("outcome", "code", "status"), REPLIES)
def test_an_error_reply_has_its_status(outcome: str, code: str, status: int) -> None:
    """By whose fault it is; an object's own words never choose 503, 504 or 507, which promise something."""
    found, _, body = problem_of_reply(outcome, ErrorInfo(code, "why", {"a": 1}))
    told = json.loads(body)
    assert (found, told["status"]) == (status, status)
    assert told["data"] == {"a": 1}


def test_more_members_stand_beside_the_standard_ones() -> None:
    """And a detail only if there is one."""
    more: dict[str, Any] = {"command": "/commands/1"}
    told = json.loads(problem("outcome-unknown", "why", status=504, **more)[2])
    assert told == {
        "type": "urn:perdure:problem:outcome-unknown",
        "title": "outcome unknown",
        "status": 504,
        "detail": "why",
        "command": "/commands/1",
    }
