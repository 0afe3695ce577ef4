"""An object with an alarm: any request sets it `ALARM_S` seconds ahead; `GET /runs`
returns how often it has run.
"""

from __future__ import annotations

from perdure import DurableObject, Request, Response


class ScheduledObject(DurableObject):
    async def fetch(self, request: Request) -> Response:
        if request.path == "/runs":
            return Response.json({"runs": await self.state.get("runs", 0)})
        await self.state.set_alarm(self.state.now + int(getattr(self.env, "ALARM_S", 60) * 1000))
        return Response("alarm scheduled")

    async def alarm(self) -> None:
        await self.state.put("runs", await self.state.get("runs", 0) + 1)
