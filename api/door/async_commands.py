"""Requests that do not wait: the 202 for `Prefer: respond-async`, and `GET /commands/{id}` for the outcome.

The door (http.py) calls `accepted` once the command is durable. The client then reads the outcome at the URL
in the response.

Laws [test_commands.py, test_command_status.py]
- An id that is not found is reported as unknown, never as failed: it never arrived, or was trimmed.
- With access control, a command is visible to the principal that sent it and to those with the right `admin`;
  for all others it does not exist.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.api.pages import JSON_NOW, Page, PageRequest, Refused, nothing_behind, only
from perdure.api.problems import Problem, problem, problem_of_reply
from perdure.schemas.access import ADMIN, Need, may
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.replies import Reply
from perdure.schemas.statuses import STATUS
from perdure.streams.owner.command_status import CommandStatus, Pace, look_up, time_in
from perdure.streams.owner.owner import Owner

MAX_WAIT_S = 30.0
_LOOK_S = 0.1  # pause between two checks of a command that is waited for
_encode = msgspec.json.Encoder().encode


def url_of(id_: str) -> str:
    """The path at which the outcome of a command is read."""
    return f"/commands/{id_}"


def prefers_async(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """True if a request's headers have `Prefer: respond-async` (RFC 7240)."""
    for name, value in headers:
        if name == b"prefer":
            for part in value.split(b","):
                if part.split(b";")[0].strip().lower() == b"respond-async":
                    return True
    return False


def accepted(id_: str) -> Problem:
    """The response to a request that does not wait; its command is durable."""
    url = url_of(id_)
    headers = [*JSON_NOW, (b"location", url.encode()), (b"preference-applied", b"respond-async")]
    return 202, headers, _encode({"id": id_, "url": url, "status": "pending"})


def commands_page(owners: Sequence[Owner]) -> Page:
    """The handler of /commands, which reads the logs of all `owners`."""
    pace = Pace()

    async def page(request: PageRequest) -> Problem:
        if len(request.parts) != 1:
            raise nothing_behind("commands", request)
        only(request, "GET")
        id_ = request.parts[0]
        until_s = asyncio.get_running_loop().time() + _wait_s(request.query)
        place = time_in(id_, len(owners))
        if place is None:
            raise _unknown(id_)
        owner = owners[place[0]]
        status = await look_up(owner, id_, place[1], pace)
        if status is None or not _may_see(request, status):
            raise _unknown(id_)
        while not status.done and asyncio.get_running_loop().time() < until_s:
            await asyncio.sleep(_LOOK_S)
            if status.offset in owner.tables.done:
                status = await look_up(owner, id_, place[1], pace) or status
        return _response(id_, status)

    return page


def _wait_s(query: Any) -> float:
    if unknown := query.keys() - {"wait"}:
        raise MalformedCommand(f"unknown query parameter {min(unknown)[:40]!r}; only `wait` is supported")
    text = query.get("wait", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise MalformedCommand(f"wait={text[:20]} is not a whole number of seconds")
    return min(float(text), MAX_WAIT_S)


def _may_see(request: PageRequest, status: CommandStatus) -> bool:
    grant = request.grant
    return grant is None or grant.principal == status.command.principal or may(grant, Need(ADMIN))


def _unknown(id_: str) -> Refused:
    message = (
        f"no command {id_[:100]} is known: it never arrived, or is older than what is kept (keep_commands), or "
        "is not yours. It may or may not have been done"
    )
    return Refused(problem("unknown-command", message, status=STATUS["unknown-command"]))


def _response(id_: str, status: CommandStatus) -> Problem:
    content: dict[str, Any] = {
        "id": id_,
        "url": url_of(id_),
        "object": status.command.key,
        "status": "done" if status.done else "pending",
    }
    if not status.done:
        return 200, [*JSON_NOW, (b"retry-after", b"1")], _encode(content)
    if status.reply is None:
        content |= {"reply": None, "detail": "it changed nothing, and its answer was not kept"}
    else:
        content |= {"outcome": status.reply.outcome, "reply": _reply(status.reply)}
    return 200, JSON_NOW, _encode(content)


def _reply(reply: Reply) -> dict[str, Any]:
    if reply.error is not None:
        status, _, body = problem_of_reply(reply.outcome, reply.error)
        return {
            "status": status,
            "headers": [["content-type", "application/problem+json"]],
            "body": msgspec.Raw(body),
        }
    content: dict[str, Any] = {"status": reply.status, "headers": reply.headers}
    try:
        return content | {"body": msgspec.json.decode(reply.body)}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return content | {"base64": base64.b64encode(reply.body).decode()}
