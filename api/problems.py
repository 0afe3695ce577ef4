"""Errors as HTTP responses: RFC 9457 problem+json. Their statuses are those of schemas/statuses.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.schemas.errors import OutcomeUnknown, Overloaded, OverQuota, PerdureError
from perdure.schemas.replies import ErrorInfo
from perdure.schemas.statuses import STATUS, UNAVAILABLE_STATUS, status_of
from perdure.streams.turns.object_quotas import RETRY_AFTER_S

UNAUTHENTICATED_STATUS = 401

Problem = tuple[int, Sequence[tuple[bytes, bytes]], bytes]

_encode = msgspec.json.Encoder().encode


def problem(
    code: str,
    message: str,
    *,
    status: int,
    detail: Any = None,
    retry_after_s: float | None = None,
    **more: Any,
) -> Problem:
    """(status, headers, body) of a problem; its type is `urn:perdure:problem:{code}`.

    Args:
        code: the error's code.
        message: what happened and what to do, for people.
        status: the HTTP status.
        detail: the error's data, as JSON has it; None for none.
        retry_after_s: when to send the request again, in seconds; None if that is not known (one second for a
            503).
        more: further members of the problem.
    """
    members = {
        "type": f"urn:perdure:problem:{code}",
        "title": code.replace("-", " "),
        "status": status,
        "detail": message,
        **more,
    }
    if detail is not None:
        members["data"] = detail
    headers = [(b"content-type", b"application/problem+json")]
    if retry_after_s is not None or status == UNAVAILABLE_STATUS:
        headers.append((b"retry-after", b"%d" % max(math.ceil(retry_after_s or 0), 1)))
    elif status == UNAUTHENTICATED_STATUS:
        headers.append((b"www-authenticate", b"Bearer"))
    return status, headers, _encode(members)


def problem_of_reply(outcome: str, error: ErrorInfo, **more: Any) -> Problem:
    """The problem of an error reply of an object or an owner."""
    status = status_of(outcome, error.code)
    again_s = RETRY_AFTER_S if status == STATUS[OverQuota.code] else None
    return problem(
        error.code, error.message, status=status, detail=error.detail, retry_after_s=again_s, **more
    )


def problem_of(error: PerdureError, **more: Any) -> Problem:
    """The problem of an error raised at the door itself, before or instead of a reply."""
    command = error.command if isinstance(error, OutcomeUnknown) else ""
    if command:
        more["command"] = f"/commands/{command}"
    status = STATUS.get(error.code, UNAVAILABLE_STATUS)
    again_s = error.retry_after_s if isinstance(error, (OverQuota, Overloaded)) else None
    status, headers, body = problem(error.code, str(error), status=status, retry_after_s=again_s, **more)
    if command:
        headers = [*headers, (b"location", more["command"].encode())]
    return status, headers, body
