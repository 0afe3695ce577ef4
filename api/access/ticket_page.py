"""`POST /ticket`, `{"object": "Room/a"}`: a ticket for one WebSocket, where access is guarded."""

from __future__ import annotations

import json

from perdure.api.access.guard import Access
from perdure.api.access.tickets import TICKET_S
from perdure.api.pages import JSON_NOW, Page, PageRequest, nothing_behind, only
from perdure.api.problems import Problem
from perdure.objects.registry import Registry
from perdure.schemas.access import SUBSCRIBE, Need
from perdure.schemas.commands import parse_json
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.keys import namespace_of, object_key


def ticket_page(access: Access, registry: Registry) -> Page:
    async def page(asked: PageRequest) -> Problem:
        if asked.parts:
            raise nothing_behind("ticket", asked)
        only(asked, "POST")
        assert asked.grant is not None, "tickets are there where access is guarded"
        told = parse_json(await asked.body())
        if type(told) is not dict or told.keys() != {"object"} or type(told["object"]) is not str:
            raise MalformedCommand('a ticket is asked for with {"object": "Room/a"}')
        namespace, _, name = told["object"].partition("/")
        access.permit(asked.grant, Need(SUBSCRIBE, namespace))
        key = object_key(namespace, name)
        registry.type_of(namespace_of(key))
        ticket = {"ticket": access.ticket(asked.grant, key), "expires_in": TICKET_S}
        return 200, JSON_NOW, json.dumps(ticket).encode()

    return page
