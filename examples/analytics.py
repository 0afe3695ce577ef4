"""Counts of events: `POST /{event}` adds one, `GET` returns all counts."""

from __future__ import annotations

from perdure import DurableObject, Request, Response


class Analytics(DurableObject):
    async def fetch(self, request: Request) -> Response:
        event = request.path.split("/")[1]
        if request.method == "POST":
            if not event:
                return Response("name the event: POST /{event}", 400)
            await self.state.put(event, await self.state.get(event, 0) + 1)
            return Response("tracked")
        counts = {}
        listing = await self.state.list()
        while True:
            for key in listing.keys:
                counts[key.name] = await self.state.get(key.name)
            if listing.list_complete:
                return Response.json(counts)
            listing = await self.state.list(cursor=listing.cursor)
