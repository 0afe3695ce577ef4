"""`POST /ticket` with `{"object": "Room/a"}`: a ticket for one WebSocket, with access control only."""

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
    """The handler of /ticket."""

    async def page(request: PageRequest) -> Problem:
        if request.parts:
            raise nothing_behind("ticket", request)
        only(request, "POST")
        assert request.grant is not None, "tickets need access control"
        content = parse_json(await request.body())
        if type(content) is not dict or content.keys() != {"object"} or type(content["object"]) is not str:
            raise MalformedCommand('the body of a request for a ticket is {"object": "Room/a"}')
        namespace, _, name = content["object"].partition("/")
        access.permit(request.grant, Need(SUBSCRIBE, namespace))
        key = object_key(namespace, name)
        registry.type_of(namespace_of(key))
        ticket = {"ticket": access.ticket(request.grant, key), "expires_in": TICKET_S}
        return 200, JSON_NOW, json.dumps(ticket).encode()

    return page
