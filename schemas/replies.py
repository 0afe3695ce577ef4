"""Replies: what the sender of a command gets, and its record in `{app}.replies`.

Laws
- An error travels as code, message and detail; which HTTP status it has is decided at the door.
- A reply names its command (`correlation-id`, `command`) and carries a message id by which receivers
  drop what they have seen: `{partition}:{journal offset}/{n}`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from perdure.schemas.statuses import status_of

Pairs = tuple[tuple[str, str], ...]

OK, REFUSED, FAILED, UNAVAILABLE, REJECTED = "ok", "refused", "failed", "unavailable", "rejected"
PARKED = "parked"
FORWARDED = "forwarded"  # of an entry: its command runs in another partition, and is answered there


class ErrorInfo(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """An error in a reply: `code` is a stable word (see schemas/errors/), `detail` any JSON value."""

    code: str
    message: str
    detail: Any = None


class Reply(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The answer to one command.

    `outcome`: ok; refused (the object said no); failed (its code is at fault); rejected (the command is);
    unavailable (not done, try again); parked (it killed the process again and again, and was given up).
    `status`, `headers`, `body` are the HTTP response of a fetch, or 200 and the JSON text `{"result": …}` of
    a call; an error has `error` and none of them.
    """

    outcome: str
    status: int = 0
    headers: Pairs = ()
    body: bytes = b""
    error: ErrorInfo | None = None


def error_reply(outcome: str, code: str, message: str, detail: Any = None) -> Reply:
    """A reply that carries an error.

    outcome: `REFUSED`, `FAILED`, `REJECTED`, `UNAVAILABLE` or `PARKED`.
    code: the error's code.
    message: what happened, for people. Half a surrogate pair, which no log could hold, is escaped.
    detail: the error's data, as JSON has it; None for none.
    """
    if not message.isascii():
        message = message.encode("utf-8", "backslashreplace").decode()
    return Reply(outcome, error=ErrorInfo(code, message, detail))


_encode_json = msgspec.json.Encoder().encode


def reply_record(
    reply: Reply, key: bytes | None, message_id: str, correlation_id: str, command: str
) -> tuple[bytes | None, bytes, tuple[tuple[str, bytes], ...]]:
    """(key, value, headers) of a reply in `{app}.replies`.

    reply: what the owner answers.
    key: the address that the command named; None if it named none.
    message_id: names the reply, uniquely.
    correlation_id: the command's id.
    command: the command's place, `{partition}:{offset}`.
    """
    headers = [
        ("message-id", message_id.encode()),
        ("correlation-id", correlation_id.encode()),
        ("command", command.encode()),
        ("outcome", reply.outcome.encode()),
    ]
    if reply.error is not None:
        error = {"code": reply.error.code, "message": reply.error.message}
        if reply.error.detail is not None:
            error["detail"] = reply.error.detail
        headers.append(("status", b"%d" % status_of(reply.outcome, reply.error.code)))
        headers.append(("error", reply.error.code.encode()))
        return key, _encode_json({"error": error}), tuple(headers)
    headers.append(("status", b"%d" % reply.status))
    headers.extend((f"http-{name}", value.encode("latin-1")) for name, value in reply.headers)
    return key, reply.body, tuple(headers)


class AnsweredCommand(msgspec.Struct, gc=False, frozen=True):
    """A reply record as its receiver sees it."""

    message_id: str
    correlation_id: str
    command: str
    reply: Reply


def parse_reply(value: bytes | None, headers: tuple[tuple[str, bytes], ...]) -> AnsweredCommand:
    """Read back what `reply_record` wrote. Raises ValueError for a record that is not a reply."""
    named = dict(headers)
    try:
        outcome = named["outcome"].decode()
        error, status = None, int(named.get("status", b"0"))
        if status == 0 or "error" in named:  # earlier versions wrote errors without a status
            status = 0
            fields = msgspec.json.decode(value or b"{}")["error"]
            error = ErrorInfo(fields["code"], fields["message"], fields.get("detail"))
        elif not (200 <= status <= 599 or status == 101):
            raise ValueError(f"not a reply record: its status is {status}")
        http = tuple((name[5:], text.decode("latin-1")) for name, text in headers if name.startswith("http-"))
        reply = Reply(outcome, status, http, b"" if error else value or b"", error)
        ids = (named["message-id"].decode(), named["correlation-id"].decode(), named["command"].decode())
    except (KeyError, TypeError, msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise ValueError(f"not a reply record: {wrong!r}") from wrong
    return AnsweredCommand(*ids, reply)
