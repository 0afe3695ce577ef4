"""An event log: `POST` appends a JSON object with its time and returns it, `GET
?after=N&limit=M` reads in order.
"""

from __future__ import annotations

from perdure import DurableObject, Refusal, Request, Response


class EventLog(DurableObject):
    async def fetch(self, request: Request) -> Response:
        if request.method == "POST":
            event = await request.json()
            if not isinstance(event, dict):
                raise Refusal("an event is a JSON object", code="bad-event")
            number = await self.state.get("events", 0) + 1
            event = {**event, "timestamp": self.state.now}
            await self.state.put({"events": number, _name(number): event})
            return Response.json(event)
        try:
            after = int(request.query.get("after", "0"))
            limit = int(request.query["limit"]) if "limit" in request.query else None
        except ValueError:
            raise Refusal("after and limit are numbers", code="bad-page") from None
        events = await self.state.items(prefix="event:", start_after=_name(after), limit=limit)
        return Response.json(list(events.values()))


def _name(number: int) -> str:
    return f"event:{number:012d}"
