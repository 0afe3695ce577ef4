"""One turn as a function: from a command, a class and ports to an outcome and its effects.

`handling` gives the coroutine that runs the user's handler; `conclude` makes an `Outcome` of how it ended.

Laws
- What a turn commits (`conclude`) is a pure function of its record: the command, what the handler returned
  or raised, and the overlay it left. No clock, no I/O. [test_turn.py]
- Success commits the overlay. A `Refusal` and arguments that do not fit roll back and keep the instance;
  anything else that is raised rolls back and drops it.
- A turn that met a storage failure commits nothing, however its handler ended.
- Only a turn that returned, changed nothing and has no client key ends without an entry (`entry` False); so
  do those that were not done at all (expired, or a call of theirs was unavailable, or, if they will be
  repeated, of unknown outcome).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from enum import Enum
from http import HTTPStatus
from typing import Any

import msgspec

from perdure.objects.alarms import AlarmInfo
from perdure.objects.codec import encode_json
from perdure.objects.durable import DurableObject
from perdure.objects.effects import Effects
from perdure.objects.http import Request, Response, is_latin, pairs_of
from perdure.objects.overlay import Overlay
from perdure.objects.registry import ObjectType
from perdure.objects.rpc import method_named, open_reply
from perdure.objects.rpc import missing_await as missing_await_before
from perdure.objects.socket_events import handle_event
from perdure.schemas.alarms import parse_ring
from perdure.schemas.cache import PureCache
from perdure.schemas.commands import ALARM, CALL, FETCH, NOBODY, SOCKET, Command, parse_call
from perdure.schemas.errors import (
    BadReply,
    CallerError,
    Expired,
    FailedInside,
    InvalidArguments,
    ObjectError,
    OutcomeUnknown,
    Parked,
    PerdureError,
    Refusal,
    TooLarge,
    Unavailable,
    UnknownMethod,
)
from perdure.schemas.replies import (
    FAILED,
    OK,
    PARKED,
    REFUSED,
    REJECTED,
    UNAVAILABLE,
    Pairs,
    Reply,
    error_reply,
)

SWITCHING = 101
_UNCHANGED = "; nothing was changed"
_HEARD = Reply(OK, 204)


class Outcome(msgspec.Struct, gc=False, frozen=True):
    """The outcome of a turn. `commit`: its overlay counts.

    `entry`: it needs an entry; if not, a `done` suffices.
    """

    reply: Reply
    commit: bool
    entry: bool
    drop_instance: bool


def handling(instance: DurableObject, kind: ObjectType, command: Command) -> Coroutine[Any, Any, Any]:
    """The coroutine that handles `command` on a started instance. Raises the errors of an invalid call."""
    if command.kind == FETCH:
        return instance.fetch(Request.of(command))
    if command.kind == ALARM:
        return _alarm_run(instance, kind, command)
    if command.kind == SOCKET:
        return handle_event(instance, command)
    return _calling(instance, kind, command)


async def _calling(instance: DurableObject, kind: ObjectType, command: Command) -> Any:
    name, args, kwargs = parse_call(command.body)
    method = method_named(kind.methods, name, kind.namespace, kind.cls)
    bound, named = method.bind(args, kwargs)
    return Reply(OK, 200, (), method.reply(await method.function(instance, *bound, **named)))


async def _alarm_run(instance: DurableObject, kind: ObjectType, command: Command) -> Response:
    if kind.alarm is None:
        raise ObjectError(f"{command.key} has a due alarm, but its class no longer defines alarm()")
    ring = parse_ring(command.body)
    await kind.alarm(instance, AlarmInfo(command.method, ring.due, ring.attempt))
    return Response(None, 204)


def conclude(command: Command, result: Any, error: BaseException | None, overlay: Overlay) -> Outcome:
    """The outcome of a turn.

    command: what it ran.
    result: what its handler returned; None if it raised.
    error: what its handler raised, or what cut it short; None for nothing.
    overlay: what it wrote.
    """
    if overlay.failure is not None:
        return _after_storage_failure(command, result, error, overlay.failure)
    if error is None:
        try:
            reply = response_reply(result) if command.kind == FETCH else _reply(command, result)
            if overlay.effects is not None or reply.status == SWITCHING:
                _check_upgrade(reply, result, overlay.effects)
        except Exception as bad:  # noqa: BLE001 - a user's value can raise anything while it is encoded
            return _failed(command, bad)
        wrote = bool(overlay.changes) or not overlay.empty
        return Outcome(reply, True, wrote or command.client_key is not None, False)
    if isinstance(error, Refusal):
        return _refused(command, error)
    if isinstance(error, (InvalidArguments, UnknownMethod)) and not error.of_call:
        return Outcome(error_reply(REJECTED, error.code, str(error)), False, True, False)
    if isinstance(error, Expired) or (isinstance(error, Unavailable) and error.of_call):
        return Outcome(error_reply(UNAVAILABLE, error.code, str(error)), False, False, True)
    if isinstance(error, OutcomeUnknown) and error.of_call and comes_again(command):
        # the repeated turn makes the same call, and gets its outcome
        return Outcome(error_reply(UNAVAILABLE, error.code, str(error)), False, False, True)
    return _failed(command, error)


def not_done(error: PerdureError) -> Outcome:
    """The outcome of a command that was not run.

    Nothing changed, and the caller may ask again unless it is at fault.
    """
    kind = REJECTED if isinstance(error, CallerError) else UNAVAILABLE
    return Outcome(error_reply(kind, error.code, str(error)), False, False, False)


def failed_inside(command: Command) -> Outcome:
    """The outcome of a command that met a fault of perdure's own."""
    text = f"perdure failed inside while {command.key} worked on this command: its log has it{_UNCHANGED}"
    return Outcome(error_reply(FAILED, FailedInside.code, text), False, True, True)


def parked(command: Command, times: int) -> Outcome:
    """The outcome of a command that is given up: the process died `times` times while its turn ran."""
    text = (
        f"{times} times the process died while {command.key} worked on this command: it is parked and not run"
    )
    return Outcome(error_reply(PARKED, Parked.code, text + _UNCHANGED), False, True, False)


def _after_storage_failure(
    command: Command, result: Any, error: BaseException | None, failure: BaseException
) -> Outcome:
    reply = error_reply(
        UNAVAILABLE, "storage-failed", f"the state of {command.key} could not be read: {failure}"
    )
    if (
        error is None and getattr(result, "status", 0) != SWITCHING
    ):  # the handler caught it and has its own answer, which stands; its writes do not
        try:
            reply = _reply(command, result)
        except Exception as bad:  # noqa: BLE001 - as above
            reply = _failed(command, bad).reply
    return Outcome(reply, False, False, True)


def _refused(command: Command, error: Refusal) -> Outcome:
    try:
        return Outcome(refused_reply(error), False, True, False)
    except BadReply as bad:
        return _failed(command, bad)


def refused_reply(error: Refusal) -> Reply:
    """The reply of a refusal. It is sent as JSON: its code must be a word and its detail JSON.

    Raises `BadReply`.
    """
    try:
        detail = msgspec.json.decode(encode_json(error.detail))
    except Exception as bad:
        raise BadReply(f"a Refusal's detail is not JSON: {_text(bad)}") from bad
    return error_reply(REFUSED, _word(error.code), _text(error), detail)


def _word(code: object) -> str:
    """A refusal's code as it travels.

    A str, the value of a str enum, or the name of an `HTTPStatus` (`not-found`).
    """
    if isinstance(code, HTTPStatus):
        return code.name.lower().replace("_", "-")
    if isinstance(code, Enum):
        code = code.value
    if type(code) is not str:
        raise BadReply(f"a Refusal's code is a str, not {type(code).__name__}")
    return code


def _text(error: BaseException) -> str:
    """An error's message, even if its `__str__` fails."""
    try:
        return str(error)[:500]
    except Exception:  # noqa: BLE001 - an error's own __str__ is the user's code
        return "(its text cannot be shown)"


def _failed(command: Command, error: BaseException) -> Outcome:
    code = error.code if isinstance(error, PerdureError) else "handler-failed"
    if isinstance(error, asyncio.CancelledError):
        error = RuntimeError("its handler was cancelled from inside")
    text = _text(error) if not isinstance(error, RecursionError) else "it recursed too deeply"
    text = text.removesuffix(_UNCHANGED)  # another object's failure ends with it too
    message = f"{command.key} failed: {type(error).__name__}: {text}{missing_await(error)}{_UNCHANGED}"
    return Outcome(error_reply(FAILED, code, message), False, True, True)


def missing_await(error: BaseException) -> str:
    """A hint for a handler that used a coroutine as if it were its result: an `await` is missing."""
    text = _text(error) if isinstance(error, (TypeError, AttributeError, BadReply)) else ""
    if "coroutine" not in text or "`await`" in text:
        return ""
    return ": an `await` is missing before the call that gave the coroutine"


def entry_failed(command: Command, error: Exception) -> Outcome:
    """The outcome of a turn whose entry cannot be journaled: it is too large, or cannot be encoded."""
    if isinstance(error, TooLarge):
        return Outcome(error_reply(FAILED, error.code, f"{command.key}: {error}"), False, True, True)
    return _failed(command, BadReply(f"what it answers or sends cannot be written: {_text(error)}"))


def comes_again(command: Command) -> bool:
    """True if a turn that was not done continues: repeated under its key, or as the next run of its alarm."""
    return command.client_key is not None or command.kind == ALARM


def sender_never_retries(command: Command) -> bool:
    """True if its sender gets no reply, and would not send it again."""
    return command.reply_to == NOBODY or command.kind == SOCKET


def given_up(outcome: Outcome) -> Outcome:
    """The outcome of a command without retries that repeatedly could not be done: failed, and journaled."""
    error = outcome.reply.error
    code, text = (error.code, error.message) if error is not None else ("unavailable", "")
    return Outcome(error_reply(FAILED, code, text), False, True, True)


def _reply(command: Command, result: Any) -> Reply:
    if command.kind == FETCH:
        return response_reply(result)
    if command.kind == CALL:
        if type(result) is Reply:  # made by `_calling`, which knows the method's annotation
            return result
        return Reply(OK, 200, (), open_reply(command.method, result))
    if command.kind == SOCKET:
        return _HEARD
    return response_reply(result)


def response_reply(result: Any) -> Reply:
    """The reply for what a `fetch` returned. Raises `BadReply`."""
    if not isinstance(result, Response):
        raise BadReply(
            f"fetch returned {type(result).__name__}, not a perdure.Response{missing_await_before(result)}"
        )
    status, headers, body = result.status, result.headers, result.body
    if type(status) is HTTPStatus:
        status = int(status)
    if type(status) is not int or not (200 <= status <= 599 or status == SWITCHING):
        raise BadReply(f"fetch returned the status {result.status!r}: 200 to 599 can be answered")
    if type(body) is not bytes:
        raise BadReply(f"the body of the response is {type(body).__name__}, not str or bytes")
    if type(headers) is not tuple:
        headers = pairs_of(headers)
    if wrong := _wrong_header[headers]:
        raise BadReply(f"the response has a header that cannot be sent: {wrong}")
    return Reply(OK, status, headers, body)


def _check_upgrade(reply: Reply, result: Any, effects: Effects | None) -> None:
    """101 is the answer if, and only if, the turn has accepted the request's WebSocket. Raises `BadReply`."""
    accepted = effects.accepted if effects is not None else ""
    if reply.status == SWITCHING and not accepted:
        raise BadReply(
            "fetch answered 101 and accepted no WebSocket: accept_websocket(request), or accept() a pair"
        )
    if accepted and reply.status != SWITCHING:
        raise BadReply(f"fetch accepted a WebSocket and answered {reply.status}: return Response.upgrade()")
    if (
        accepted
        and (client := getattr(result, "web_socket", None)) is not None
        and client.server.id != accepted
    ):
        raise BadReply("fetch answered with another pair's end than the one that it accepted")


def _wrong_header_of(headers: Pairs) -> str:
    """The first header that cannot be sent, if there is one."""
    for name, value in headers:
        if not _is_header(name, value):
            return f"{name!r}: {value!r}"
    return ""


_wrong_header = PureCache(_wrong_header_of, 1024)  # a class answers with few different sets of them


def _is_header(name: object, value: object) -> bool:
    if not isinstance(name, str) or not isinstance(value, str) or not name or not name.isascii():
        return False
    clean = name.replace("-", "").replace("_", "").isalnum() and value.isprintable()
    return (
        clean
        and name.lower() not in ("content-length", "transfer-encoding", "connection")
        and is_latin(value)
    )
