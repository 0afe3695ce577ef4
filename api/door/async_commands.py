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
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Protocol

import msgspec

from perdure.api.pages import JSON_NOW, Page, PageRequest, Refused, command_url, nothing_behind, only
from perdure.api.problems import Problem, problem
from perdure.schemas.access import ADMIN, Need, may
from perdure.schemas.backoff import Backoff
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.statuses import STATUS
from perdure.streams.owner.command_status import time_in
from perdure.streams.owner.owner import Owner

MAX_WAIT_S = 30.0
_LOOK_S = 0.1  # pause between two checks of a command that is waited for
_LOOK_MOST_S = 2.0  # if it is on another node
_encode = msgspec.json.Encoder().encode


class CommandLookUp(Protocol):
    """The views of partitions, as this page uses them (api/admin/partition_views.py)."""

    def elsewhere(self, partition: int) -> bool: ...

    async def of(self, partition: int, view: str, query: Mapping[str, str]) -> Any: ...


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
    url = command_url(id_)
    headers = [*JSON_NOW, (b"location", url.encode()), (b"preference-applied", b"respond-async")]
    return 202, headers, _encode({"id": id_, "url": url, "status": "pending"})


def commands_page(views: CommandLookUp, owners: Sequence[Owner]) -> Page:
    """The handler of /commands, which looks into the partitions of all nodes by `views`.

    `owners`: this node's, in order.
    """

    async def page(request: PageRequest) -> Problem:
        if len(request.parts) != 1:
            raise nothing_behind("commands", request)
        only(request, "GET")
        id_ = request.parts[0]
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _wait_s(request.query)
        place = time_in(id_, len(owners))
        if place is None:
            raise _unknown(id_)
        partition = place[0]
        status = await views.of(partition, "command", {"id": id_})
        if status is None or not _may_see(request, status["principal"]):
            raise _unknown(id_)
        pauses = Backoff(_LOOK_S, _LOOK_MOST_S, Random())
        while not status["done"] and (left_s := until_s - loop.time()) > 0:
            if views.elsewhere(partition):  # each look is a command there
                await asyncio.sleep(min(pauses.failed(), left_s))
            else:
                await asyncio.sleep(_LOOK_S)
                if status["offset"] not in owners[partition].tables.done:
                    continue
            status = await views.of(partition, "command", {"id": id_}) or status
        headers = JSON_NOW if status["done"] else (*JSON_NOW, (b"retry-after", b"1"))
        return 200, headers, status["body"].encode()

    return page


def _wait_s(query: Any) -> float:
    if unknown := query.keys() - {"wait"}:
        raise MalformedCommand(f"unknown query parameter {min(unknown)[:40]!r}; only `wait` is supported")
    text = query.get("wait", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise MalformedCommand(f"wait={text[:20]} is not a whole number of seconds")
    return min(float(text), MAX_WAIT_S)


def _may_see(request: PageRequest, principal: str) -> bool:
    grant = request.grant
    return grant is None or grant.principal == principal or may(grant, Need(ADMIN))


def _unknown(id_: str) -> Refused:
    message = (
        f"no command {id_[:100]} is known: it never arrived, or is older than what is kept (keep_commands), or "
        "is not yours. It may or may not have been done"
    )
    return Refused(problem("unknown-command", message, status=STATUS["unknown-command"]))
