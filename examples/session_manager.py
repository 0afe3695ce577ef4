"""Sessions that end by themselves: `POST /{id}` stores a JSON body for `SESSION_S`
seconds, `GET /{id}` returns it.
"""

from __future__ import annotations

from perdure import DurableObject, Request, Response


class SessionManager(DurableObject):
    async def fetch(self, request: Request) -> Response:
        name = f"session:{request.path.split('/')[1]}"
        if request.method == "POST":
            ends_s = self.state.now / 1000 + getattr(self.env, "SESSION_S", 86_400)
            await self.state.put(name, await request.json(), expiration=ends_s)
            return Response("session created")
        return Response.json(await self.state.get(name, {}))
