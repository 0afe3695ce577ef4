"""`GET /commands/{id}`: what became of a command; and what `Prefer: respond-async` is answered.

Laws
- An id that is not found is unknown, never failed: it never arrived, or was trimmed.
- Where access is guarded, a command is there for the principal that sent it, and for who has `admin`; for all others
  it is not there.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.api.pages import JSON_NOW, Page, PageRequest, Refused, nothing_behind, only
from perdure.api.problems import STATUS, Problem, problem, problem_of_reply
from perdure.schemas.access import ADMIN, Need, may
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.replies import Reply
from perdure.streams.owner.command_status import CommandStatus, Pace, look_up, time_in
from perdure.streams.owner.owner import Owner

MAX_WAIT_S = 30.0
_LOOK_S = 0.1  # a command that is waited for is looked at so often
_encode = msgspec.json.Encoder().encode


def url_of(id_: str) -> str:
    return f"/commands/{id_}"


def prefers_async(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Is `Prefer: respond-async` (RFC 7240) among a request's headers?"""
    for name, value in headers:
        if name == b"prefer":
            for part in value.split(b","):
                if part.split(b";")[0].strip().lower() == b"respond-async":
                    return True
    return False


def accepted(id_: str) -> Problem:
    """The answer to a request that is not waited for: its command is durable."""
    url = url_of(id_)
    headers = [*JSON_NOW, (b"location", url.encode()), (b"preference-applied", b"respond-async")]
    return 202, headers, _encode({"id": id_, "url": url, "status": "pending"})


def commands_page(owners: Sequence[Owner]) -> Page:
    pace = Pace()

    async def page(asked: PageRequest) -> Problem:
        if len(asked.parts) != 1:
            raise nothing_behind("commands", asked)
        only(asked, "GET")
        id_ = asked.parts[0]
        until_s = asyncio.get_running_loop().time() + _wait_s(asked.query)
        place = time_in(id_, len(owners))
        if place is None:
            raise _unknown(id_)
        owner = owners[place[0]]
        found = await look_up(owner, id_, place[1], pace)
        if found is None or not _may_see(asked, found):
            raise _unknown(id_)
        while not found.done and asyncio.get_running_loop().time() < until_s:
            await asyncio.sleep(_LOOK_S)
            if found.offset in owner.tables.done:
                found = await look_up(owner, id_, place[1], pace) or found
        return _told(id_, found)

    return page


def _wait_s(query: Any) -> float:
    if unknown := query.keys() - {"wait"}:
        raise MalformedCommand(f"unknown query parameter {min(unknown)[:40]!r}; only `wait` is supported")
    text = query.get("wait", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise MalformedCommand(f"wait={text[:20]} is not a whole number of seconds")
    return min(float(text), MAX_WAIT_S)


def _may_see(asked: PageRequest, found: CommandStatus) -> bool:
    grant = asked.grant
    return grant is None or grant.principal == found.command.principal or may(grant, Need(ADMIN))


def _unknown(id_: str) -> Refused:
    told = (
        f"no command {id_[:100]} is known: it never arrived, or is older than what is kept (keep_commands), or is not "
        "yours. That says nothing of whether it was done"
    )
    return Refused(problem("unknown-command", told, status=STATUS["unknown-command"]))


def _told(id_: str, found: CommandStatus) -> Problem:
    told: dict[str, Any] = {
        "id": id_,
        "url": url_of(id_),
        "object": found.command.key,
        "status": "done" if found.done else "pending",
    }
    if not found.done:
        return 200, [*JSON_NOW, (b"retry-after", b"1")], _encode(told)
    if found.reply is None:
        told |= {"reply": None, "detail": "it changed nothing, and its answer was not kept"}
    else:
        told |= {"outcome": found.reply.outcome, "reply": _reply(found.reply)}
    return 200, JSON_NOW, _encode(told)


def _reply(reply: Reply) -> dict[str, Any]:
    if reply.error is not None:
        status, _, body = problem_of_reply(reply.outcome, reply.error)
        return {
            "status": status,
            "headers": [["content-type", "application/problem+json"]],
            "body": msgspec.Raw(body),
        }
    told: dict[str, Any] = {"status": reply.status, "headers": reply.headers}
    try:
        return told | {"body": msgspec.json.decode(reply.body)}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return told | {"base64": base64.b64encode(reply.body).decode()}
