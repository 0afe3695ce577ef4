"""A lock server. `POST /lock`, `/renew` and `/release` with the header `lock-name`.

The holder of a lock gets a fencing token (header `lock-token`), a number that only grows. A resource that
remembers the highest token it has seen can refuse a client whose lock has run out. Renewing and releasing
need the token. A lock frees itself after `LOCK_S` seconds.
"""

from __future__ import annotations

from perdure import DurableObject, Request, Response


class Coordinator(DurableObject):
    async def fetch(self, request: Request) -> Response:
        if request.method != "POST" or request.path not in ("/lock", "/renew", "/release"):
            return Response("coordinator ready")
        name = request.headers.get("lock-name", "")
        holder = await self.state.get(f"lock:{name}")
        if request.path == "/lock":
            return Response("locked", 409) if holder else await self._acquire(name)
        if holder is None or request.headers.get("lock-token") != str(holder):
            return Response("not yours", 409)
        if request.path == "/release":
            await self.state.delete(f"lock:{name}")
            return Response("released")
        await self._hold(name, holder)
        return Response("renewed", headers={"lock-token": str(holder)})

    async def _acquire(self, name: str) -> Response:
        token = await self.state.get("tokens", 0) + 1
        await self.state.put("tokens", token)
        await self._hold(name, token)
        return Response("acquired", headers={"lock-token": str(token)})

    async def _hold(self, name: str, token: int) -> None:
        await self.state.put(f"lock:{name}", token, expiration_ttl=getattr(self.env, "LOCK_S", 30))
