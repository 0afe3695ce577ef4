"""`/admin`: shows operators what a node holds, and passes on their acts on objects.

    GET    /admin/namespaces, /admin/partitions, /admin/memory, /admin/config
    GET    /admin/objects/{namespace}, /admin/objects/{namespace}/{name}[/state|alarms|sockets|turns]
    DELETE /admin/objects/{namespace}/{name}
    POST   /admin/objects/{namespace}/{name}/pause|resume|skip
    GET    /admin/parked, /admin/dead[/{id}]
    POST   /admin/parked/{id}/redrive|drop, /admin/dead/{id}/redrive
    GET    /admin/projections[/{name}[/rows]]
    GET    /admin/log[/events], /admin/history/…, /admin/state/…, /admin/diff/… (audit_pages.py)
    POST   /admin/sql
    GET    /admin/snapshots
    POST   /admin/snapshots/take

Laws [test_admin.py]
- With access control, the client has the right `admin` (api/access/guard.py). If objects are reachable
  through a Worker only, this page does not exist (api/doors.py).
- An act is a command on the log, and its answer is the owner's. A GET changes nothing.
- Any node answers for each object and partition; `memory` and `snapshots/take` are of this node.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.api.admin.dead import dead_letter, dead_letters, redrive_letter
from perdure.api.admin.partition_views import PartitionViews
from perdure.api.admin.projections import ProjectionViews
from perdure.api.admin.sql import SqlPage
from perdure.api.admin.views import limit_of, memory, merged_names, parked_at
from perdure.api.gateway import Gateway
from perdure.api.pages import JSON_NOW, Page, PageRequest, Refused, known_only, nothing_behind, only
from perdure.api.problems import Problem, problem, problem_of_reply
from perdure.api.replies import ReplyFuture
from perdure.objects.registry import Registry
from perdure.schemas import admin as acts
from perdure.schemas.commands import parse_json
from perdure.schemas.config import Config, masked
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.keys import object_key
from perdure.streams.owner.owner import Owner
from perdure.streams.snapshots.service import Snapshots

_OFFSET_MAX = 10**18 - 1  # more than a log ever has, and a number that `place_of` can read
if TYPE_CHECKING:
    from perdure.api.admin.audit_pages import AuditPages

_NO_SNAPSHOTS = "this app takes no snapshots: its configuration has no [snapshots]"
_PAGED = frozenset(("prefix", "cursor", "limit"))


def admin_page(
    gateway: Gateway,
    owners: Sequence[Owner],
    views: PartitionViews,
    registry: Registry,
    config: Config,
    snapshots: Snapshots | None = None,
    projections: ProjectionViews | None = None,
) -> Page:
    """The handler of /admin.

    Args:
        gateway: where acts on objects go.
        owners: this node's owners.
        views: what is shown of objects and partitions, on whichever node they are.
        registry: the app's classes.
        config: the app's configuration.
        snapshots: the node's snapshots; None if they are not configured.
        projections: the views of the app's projections; None if it has none.
    """
    shown = projections or ProjectionViews(owners, {}, config)
    return _Admin(gateway, owners, views, registry, config, snapshots, shown).page


class _Admin:
    def __init__(
        self,
        gateway: Gateway,
        owners: Sequence[Owner],
        views: PartitionViews,
        registry: Registry,
        config: Config,
        snapshots: Snapshots | None,
        projections: ProjectionViews,
    ) -> None:
        self._views = views
        self._snapshots = snapshots
        self._gateway = gateway
        self._owners = owners
        self._registry = registry
        self._config = config
        self._projections = projections
        self._sql = SqlPage(config)

    @cached_property
    def _audit(self) -> AuditPages:
        from perdure.api.admin.audit_pages import AuditPages  # imported by the first request for one

        return AuditPages.of(self._owners, self._config)

    async def page(self, request: PageRequest) -> Problem:
        match request.parts:
            case ("namespaces" | "partitions" | "memory" | "config" as name,):
                _get(request)
                return _response(await self._of_node(name))
            case ("snapshots",):
                _get(request)
                return _response(await self._taken.listed())
            case ("snapshots", "take"):
                only(request, "POST")
                return _response(await self._taken.take_now())
            case ("projections", *rest) if (shown := await self._of_projections(request, *rest)) is not None:
                return _response(shown)
            case ("sql",):
                only(request, "POST")
                return _response(await self._sql.answer(await request.body()))
            case ("parked",):
                _get(request, frozenset(("cursor", "limit")))
                return _response(await self._parked(request))
            case ("parked", id_, (acts.REDRIVE | acts.DROP) as act):
                only(request, "POST")
                return await self._settle(request, id_, act)
            case ("dead",):
                _get(request, frozenset(("cursor", "limit")))
                return _response(await dead_letters(self._owners, request.query))
            case ("dead", id_):
                _get(request)
                return _response(await dead_letter(self._owners, id_))
            case ("dead", id_, acts.REDRIVE):
                only(request, "POST")
                return _response(await redrive_letter(self._owners, id_))
            case ("log" | "history" | "state" | "diff", *_):
                return await self._audit.page(request)
            case ("objects", namespace):
                _get(request, _PAGED)
                self._registry.type_of(namespace)
                pages = await self._views.of_all("names", {**request.query, "namespace": namespace})
                return _response(merged_names(pages, request.query))
            case ("objects", namespace, name, *rest) if len(rest) < 2:
                return await self._of_object(request, self._key(namespace, name), *rest)
        raise nothing_behind("admin", request)

    @property
    def _taken(self) -> Snapshots:
        if self._snapshots is None:
            raise Refused(problem("no-such-path", _NO_SNAPSHOTS, status=404))
        return self._snapshots

    def _key(self, namespace: str, name: str) -> str:
        key = object_key(namespace, name)
        self._registry.type_of(namespace)
        return key

    async def _of_node(self, name: str) -> Any:
        if name == "namespaces":
            kinds = self._registry.types
            return {
                "namespaces": [{"name": each, "class": kinds[each].cls.__name__} for each in sorted(kinds)]
            }
        if name == "partitions":
            return await self._views.table()
        return memory(self._owners, self._config) if name == "memory" else masked(self._config)

    async def _of_projections(self, request: PageRequest, *parts: str) -> Any:
        """What is shown of projections; None if there is nothing at this path."""
        match parts:
            case ():
                _get(request)
                return await self._projections.listed()
            case (name,):
                _get(request)
                return await self._projections.one(name)
            case (name, "rows"):
                _get(request, _PAGED | {"wait"})
                return await self._projections.rows(name, request.query)
        return None

    async def _of_object(self, request: PageRequest, key: str, what: str = "") -> Problem:
        match what:
            case "" if request.method == "DELETE":
                return await self._act(request, key, acts.DELETE)
            case "":
                only(request, "GET", "DELETE")
                return _response(await self._views.of_object(key, "summary"))
            case "alarms" | "sockets":
                _get(request)
                return _response(await self._views.of_object(key, what))
            case "state" | "turns":
                _get(request, _PAGED if what == "state" else _PAGED - {"prefix"})
                return _response(await self._views.of_object(key, what, request.query))
            case acts.PAUSE | acts.RESUME:
                only(request, "POST")
                return await self._act(request, key, what)
            case acts.SKIP:
                only(request, "POST")
                return await self._act(request, key, what, _offset_in(await request.body()))
        raise nothing_behind("admin", request)

    async def _parked(self, request: PageRequest) -> Any:
        """One page of parked commands and alarms, partition by partition."""
        limit, cursor = limit_of(request.query), request.query.get("cursor")
        first, start = 0, ""
        if cursor:
            first, place = parked_at(cursor, self._views.partitions)
            start = str(place)
        rows: list[Any] = []
        for partition in range(first, self._views.partitions):
            query = {"limit": str(limit - len(rows) or 1), "from": start}
            page = await self._views.of(partition, "parked", query)
            if len(rows) == limit and page["parked"]:
                return {"parked": rows, "cursor": page["parked"][0]["id"]}
            rows += page["parked"]
            if page["cursor"] is not None:
                return {"parked": rows, "cursor": page["cursor"]}
            start = ""
        return {"parked": rows, "cursor": None}

    async def _settle(self, request: PageRequest, id_: str, act: str) -> Problem:
        partition, place = parked_at(id_, self._views.partitions)
        key = await self._views.of(partition, "parked-key", {"place": str(place)})
        if key is None:
            raise acts.nothing_parked(id_[:40])
        return await self._act(request, key, act, str(place))

    async def _act(self, request: PageRequest, key: str, act: str, at: str = "") -> Problem:
        reply_future = ReplyFuture()
        principal = "" if request.grant is None else request.grant.principal
        self._gateway.administer(reply_future, key, act, msgspec.json.encode(acts.Act(at)), principal)
        answer = await reply_future.future
        place = (b"perdure-command", b"%d:%d" % (answer.partition, answer.offset))
        reply = answer.reply
        if reply.error is not None:
            status, headers, body = problem_of_reply(reply.outcome, reply.error)
            return status, [*headers, place], body
        return reply.status, [*JSON_NOW, place], reply.body


def _get(request: PageRequest, known: frozenset[str] = frozenset()) -> None:
    only(request, "GET")
    known_only(request.query, known)


def _offset_in(body: bytes) -> str:
    content = parse_json(body) if body.strip() else None
    if (
        type(content) is not dict
        or content.keys() != {"offset"}
        or type(content["offset"]) is not int
        or content["offset"] < 0
    ):
        raise MalformedCommand('the body names the command to skip: {"offset": 17}')
    if content["offset"] > _OFFSET_MAX:
        raise MalformedCommand("that is not the offset of a command: it has more than 18 digits")
    return str(content["offset"])


def _response(what: Any) -> Problem:
    return 200, JSON_NOW, json.dumps(what, ensure_ascii=False).encode()
