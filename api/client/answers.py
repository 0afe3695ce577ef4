"""Turns an HTTP answer into a response, or into the error that the server raised.

Laws
- An error is problem+json with a type of perdure's, or an error status from a server in between (without
  `perdure-command`). Everything else is the object's own answer, whatever its status.
- An error's class is the server's own, found by its code; a code without a class becomes an error by its
  status.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from perdure.objects.http import FetchedResponse, Headers
from perdure.objects.rpc import Method, json_result
from perdure.schemas.errors import (
    CallerError,
    Forbidden,
    HandlerFailed,
    KeyConflict,
    OutcomeUnknown,
    OverQuota,
    PerdureError,
    Refusal,
    StorageFailed,
    Unauthenticated,
    Unavailable,
    error_named,
)

COMMAND = "perdure-command"
_TYPE = "urn:perdure:problem:"
_NONE_SENT = "Authorization: Bearer TOKEN"  # the door's words for a request without credentials
_HOW_TO_SHOW_IT = "connect(…, token=…) sends it, and the commands send what is in PERDURE_TOKEN"
_REFUSED = {400: ("bad-body",), 426: ("upgrade-required",)}
_BY_STATUS: dict[int, type[PerdureError]] = {
    401: Unauthenticated,
    403: Forbidden,
    429: OverQuota,
    502: OutcomeUnknown,  # from a proxy
    503: Unavailable,
    504: OutcomeUnknown,
    507: StorageFailed,
}


class RawResponse(NamedTuple):
    """A whole HTTP response."""

    status: int
    headers: Headers
    body: bytes


class ClientResponse(FetchedResponse):
    """An object's response to the client's `fetch`.

    Unlike those of a `FetchedResponse`, its methods are not awaited.

    Attributes:
        status: the HTTP status, an int.
        headers: a mapping whose names are compared without case.
        body: the whole body, bytes.
    """

    __slots__ = ()

    def text(self) -> str:  # type: ignore[override]  # the body is here, in both styles
        """The body as text; bytes that are not UTF-8 become U+FFFD."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:  # type: ignore[override]  # as text
        """The body, parsed as JSON. Raises ValueError if it is not JSON."""
        return msgspec.json.decode(self.body)


def _problem(answer: RawResponse) -> dict[str, Any] | None:
    """The JSON of a problem of perdure's, or None for any other answer."""
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        problem = msgspec.json.decode(answer.body)
    except ValueError:
        return None
    ours = isinstance(problem, dict) and str(problem.get("type", "")).startswith(_TYPE)
    return problem if ours else None


def code_of(answer: RawResponse) -> str | None:
    """The code of a problem of perdure's, or None for any other answer."""
    problem = _problem(answer)
    return None if problem is None else str(problem["type"])[len(_TYPE) :]


def error_of(answer: RawResponse) -> PerdureError | None:
    """The error that an answer stands for, or None if it is a result or a response."""
    status = answer.status
    problem = _problem(answer)
    if problem is None:
        if status < 400 or COMMAND in answer.headers:
            return None
        text = answer.body[:300].decode("utf-8", "replace")
        return _by_status(status)(f"HTTP {status}, not from perdure: {text}")
    code, message = str(problem["type"])[len(_TYPE) :], str(problem.get("detail", ""))
    if (status == 409 and code != KeyConflict.code) or code in _REFUSED.get(status, ()):
        return Refusal(message, code=code, detail=problem.get("data"))
    if code == Unauthenticated.code and _NONE_SENT in message:
        message = f"{message}; {_HOW_TO_SHOW_IT}"
    named = error_named(code)
    if named is not None and not issubclass(named, Refusal):
        return named(message)
    error = _by_status(status)(message)
    error.code = code
    return error


def _by_status(status: int) -> type[PerdureError]:
    return _BY_STATUS.get(status, CallerError if status < 500 else HandlerFailed)


def result_of(answer: RawResponse, method: Method | None = None) -> Any:
    """The return value of a method, of the annotated type if the method is known.

    Raises `BadReply` if it does not fit the annotation, and `OutcomeUnknown` if it is not a perdure server's
    answer.
    """
    try:
        return json_result(answer.body) if method is None else method.result(answer.body)
    except (ValueError, TypeError):
        raise OutcomeUnknown("this is not a perdure server's answer to a call: check the URL") from None
