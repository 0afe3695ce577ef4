"""Memory and storage side by side: attributes are gone when the object leaves memory, state stays."""

from __future__ import annotations

from perdure import DurableObject, Env, Request, Response, State


class SessionCache(DurableObject):
    def __init__(self, state: State, env: Env) -> None:
        super().__init__(state, env)
        self.seen = 0  # in memory only

    async def start(self) -> None:
        """Called before the first turn of each stay in memory."""
        await self.state.put("stays", await self.state.get("stays", 0) + 1)

    async def fetch(self, request: Request) -> Response:
        self.seen += 1
        total = await self.state.get("total", 0) + 1
        await self.state.put("total", total)
        stays = await self.state.get("stays")
        return Response.json({"in_memory": self.seen, "persistent": total, "stays": stays})
