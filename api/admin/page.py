"""`/admin`: what whoever runs an app sees of it, and what they have done to its objects.

    GET    /admin/namespaces, /admin/partitions, /admin/memory, /admin/config
    GET    /admin/objects/{namespace}, /admin/objects/{namespace}/{name}[/state|alarms|sockets|turns]
    DELETE /admin/objects/{namespace}/{name}
    POST   /admin/objects/{namespace}/{name}/pause|resume|skip
    GET    /admin/parked
    POST   /admin/parked/{id}/redrive|drop

Laws
- Whoever asks has the right `admin`, where access is guarded (api/access/guard.py). Where objects are reached through a
  Worker only, there is no such page (api/node.py).
- An act is a command on the log, and its answer is the owner's. A GET changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.api.admin.views import (
    alarms,
    memory,
    objects,
    owner_of,
    parked,
    parked_at,
    partitions,
    sockets,
    state,
    summary,
    turns,
)
from perdure.api.gateway import Gateway
from perdure.api.pages import JSON_NOW, Page, PageRequest, nothing_behind, only
from perdure.api.problems import Problem, problem_of_reply
from perdure.api.replies import ReplyFuture
from perdure.objects.registry import Registry
from perdure.schemas import admin as acts
from perdure.schemas.commands import parse_json
from perdure.schemas.config import Config, masked
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.keys import object_key
from perdure.streams.owner.command_status import confirm_ownership
from perdure.streams.owner.owner import Owner

_OFFSET_MAX = 10**18 - 1  # more than a log ever has, and such as `place_of` reads
_PAGED = frozenset(("prefix", "cursor", "limit"))


def admin_page(gateway: Gateway, owners: Sequence[Owner], registry: Registry, config: Config) -> Page:
    return _Admin(gateway, owners, registry, config).page


class _Admin:
    def __init__(self, gateway: Gateway, owners: Sequence[Owner], registry: Registry, config: Config) -> None:
        self._gateway = gateway
        self._owners = owners
        self._registry = registry
        self._config = config

    async def page(self, asked: PageRequest) -> Problem:
        match asked.parts:
            case ("namespaces" | "partitions" | "memory" | "config" as name,):
                _get(asked)
                return _told(await self._of_node(name))
            case ("parked",):
                _get(asked, frozenset(("cursor", "limit")))
                return _told(await parked(self._owners, asked.query))
            case ("parked", id_, (acts.REDRIVE | acts.DROP) as act):
                only(asked, "POST")
                return await self._settle(asked, id_, act)
            case ("objects", namespace):
                _get(asked, _PAGED)
                self._registry.type_of(namespace)
                return _told(await objects(self._owners, namespace, asked.query))
            case ("objects", namespace, name, *rest) if len(rest) < 2:
                return await self._of_object(asked, self._key(namespace, name), *rest)
        raise nothing_behind("admin", asked)

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
            return await partitions(self._owners)
        return memory(self._owners, self._config) if name == "memory" else masked(self._config)

    async def _of_object(self, asked: PageRequest, key: str, what: str = "") -> Problem:
        owner = owner_of(self._owners, key)
        match what:
            case "" if asked.method == "DELETE":
                return await self._act(asked, key, acts.DELETE)
            case "":
                only(asked, "GET", "DELETE")
                return _told(await summary(owner, key))
            case "state":
                _get(asked, _PAGED)
                return _told(await state(owner, key, asked.query))
            case "alarms":
                _get(asked)
                return _told(await alarms(owner, key))
            case "sockets":
                _get(asked)
                return _told(await sockets(owner, key))
            case "turns":
                _get(asked, frozenset(("cursor", "limit")))
                return _told(await turns(owner, key, asked.query))
            case acts.PAUSE | acts.RESUME:
                only(asked, "POST")
                return await self._act(asked, key, what)
            case acts.SKIP:
                only(asked, "POST")
                return await self._act(asked, key, what, _offset_in(await asked.body()))
        raise nothing_behind("admin", asked)

    async def _settle(self, asked: PageRequest, id_: str, act: str) -> Problem:
        owner, place = parked_at(id_, self._owners)
        await confirm_ownership(owner)
        found = owner.tables.admin.parked(place)
        if found is None:
            raise acts.nothing_parked(id_[:40])
        return await self._act(asked, found.key, act, str(place))

    async def _act(self, asked: PageRequest, key: str, act: str, at: str = "") -> Problem:
        waiting = ReplyFuture()
        principal = "" if asked.grant is None else asked.grant.principal
        self._gateway.administer(waiting, key, act, msgspec.json.encode(acts.Act(at)), principal)
        answer = await waiting.future
        place = (b"perdure-command", b"%d:%d" % (answer.partition, answer.offset))
        reply = answer.reply
        if reply.error is not None:
            status, headers, body = problem_of_reply(reply.outcome, reply.error)
            return status, [*headers, place], body
        return reply.status, [*JSON_NOW, place], reply.body


def _get(asked: PageRequest, known: frozenset[str] = frozenset()) -> None:
    only(asked, "GET")
    if unknown := asked.query.keys() - known:
        raise MalformedCommand(f"unknown query parameter {min(unknown)[:40]!r}")


def _offset_in(body: bytes) -> str:
    told = parse_json(body) if body.strip() else None
    if (
        type(told) is not dict
        or told.keys() != {"offset"}
        or type(told["offset"]) is not int
        or told["offset"] < 0
    ):
        raise MalformedCommand('the command to give up is named with {"offset": 17}')
    if told["offset"] > _OFFSET_MAX:
        raise MalformedCommand("that is not the offset of a command, which has at most 18 digits")
    return str(told["offset"])


def _told(what: Any) -> Problem:
    return 200, JSON_NOW, json.dumps(what, ensure_ascii=False).encode()
