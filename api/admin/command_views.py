"""What became of a command, as its partition's owner says: for `GET /commands/{id}` on any node.

Law: the answer is as the owner's node gives it itself. [test_views_elsewhere.py]
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.api.pages import command_url
from perdure.api.problems import problem_of_reply
from perdure.schemas.replies import Reply
from perdure.streams.owner.command_status import CommandStatus, Pace, look_up, time_in
from perdure.streams.owner.owner import Owner

_encode = msgspec.json.Encoder().encode


class CommandViews:
    """The look-ups of one node, in the partitions of `owners`; all of them together keep a pace."""

    def __init__(self, owners: Sequence[Owner]) -> None:
        self._partitions = len(owners)
        self._pace = Pace()

    async def status(self, owner: Owner, id_: str) -> dict[str, Any] | None:
        """What became of the command: `done`, its `offset`, its `principal`, and the `body` of the response.

        None if it is not known. Raises `Unavailable`.
        """
        place = time_in(id_, self._partitions)
        if place is None or place[0] != owner.partition:
            return None
        status = await look_up(owner, id_, place[1], self._pace)
        if status is None:
            return None
        return {
            "done": status.done,
            "offset": status.offset,
            "principal": status.command.principal,
            "body": _body(id_, status).decode(),
        }


def _body(id_: str, status: CommandStatus) -> bytes:
    content: dict[str, Any] = {
        "id": id_,
        "url": command_url(id_),
        "object": status.command.key,
        "status": "done" if status.done else "pending",
    }
    if status.done and status.reply is None:
        content |= {"reply": None, "detail": "it changed nothing, and its answer was not kept"}
    elif status.done and status.reply is not None:
        content |= {"outcome": status.reply.outcome, "reply": _reply(status.reply)}
    return _encode(content)


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
