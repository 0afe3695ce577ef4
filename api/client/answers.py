"""What an answer of the HTTP door comes to: a response, or the error that was raised on the server.

Laws
- Only problem+json with a type of perdure's, and what comes from something in between (no `perdure-command`), is an
  error. Whatever else an object answers is its answer, of any status.
- The class is the server's own, by its code; a code that no class has is an error by its status.
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
_HOW_TO_SHOW_IT = "connect(…, token=…) sends it, and the commands send what is in PERDURE_TOKEN"
_REFUSED = {400: ("bad-body",), 426: ("upgrade-required",)}
_BY_STATUS: dict[int, type[PerdureError]] = {
    401: Unauthenticated,
    403: Forbidden,
    429: OverQuota,
    502: OutcomeUnknown,  # of a proxy
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
    """An object's response to the client's `fetch`. Unlike those of a `FetchedResponse`, its methods are not awaited.

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
    """The problem of perdure's that it is, if it is one."""
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        told = msgspec.json.decode(answer.body)
    except ValueError:
        return None
    ours = isinstance(told, dict) and str(told.get("type", "")).startswith(_TYPE)
    return told if ours else None


def code_of(answer: RawResponse) -> str | None:
    """The code of perdure's error that it is, if it is one."""
    told = _problem(answer)
    return None if told is None else str(told["type"])[len(_TYPE) :]


def error_of(answer: RawResponse) -> PerdureError | None:
    """The error that it is, if it is one."""
    status = answer.status
    told = _problem(answer)
    if told is None:
        if status < 400 or COMMAND in answer.headers:
            return None
        text = answer.body[:300].decode("utf-8", "replace")
        return _by_status(status)(f"HTTP {status}, not from perdure: {text}")
    code, message = str(told["type"])[len(_TYPE) :], str(told.get("detail", ""))
    if (status == 409 and code != KeyConflict.code) or code in _REFUSED.get(status, ()):
        return Refusal(message, code=code, detail=told.get("data"))
    if code == Unauthenticated.code:
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
    """What a method returned, as its annotation says if the method is known.

    Raises `BadReply` if it cannot be that, and `OutcomeUnknown` if it is not a perdure server's answer.
    """
    try:
        return json_result(answer.body) if method is None else method.result(answer.body)
    except (ValueError, TypeError):
        raise OutcomeUnknown("this is not a perdure server's answer to a call: check the URL") from None
