"""A Worker in front of objects: the same id always reaches the same object. It is
the main module of the examples.

`/users/{id}` counts visits of a user, `/rooms/{room}/{user}` lets a user into a room, which notifies the
user's object. `/documents/{name}` passes requests on to a document, WebSockets too.
"""

from __future__ import annotations

from analytics import Analytics
from cleanup_object import CleanupObject
from coordinator import Coordinator
from counter import Counter
from distributed_cache import DistributedCache
from document import Document
from echo import Echo
from event_log import EventLog
from ledger import Ledger
from metered_object import MeteredObject
from rate_limiter import RateLimiter
from safe_object import SafeObject
from scheduled_object import ScheduledObject
from session_cache import SessionCache
from session_manager import SessionManager

from perdure import CallerError, DurableObject, Env, Refusal, Request, Response


class User(DurableObject):
    async def fetch(self, request: Request) -> Response:
        visits = await self.state.get("visits", 0) + 1
        await self.state.put("visits", visits)
        return Response.json({"user": self.state.id.name, "visits": visits, "rooms": await self.rooms()})

    async def entered(self, room: str) -> None:
        """A room reports that the user is in it."""
        await self.state.put(f"room:{room}", self.state.now)

    async def rooms(self) -> list[str]:
        return [name.removeprefix("room:") for name in await self.state.items(prefix="room:")]


class Room(DurableObject):
    async def enter(self, user: str) -> int:
        """Let `user` in, and return how many users are there."""
        try:
            known = self.env.USERS.get(user)
        except CallerError as error:  # not every string can name an object
            raise Refusal(str(error), code="bad-user") from None
        await self.state.put(f"user:{user}", True)
        known.send.entered(self.state.id.name)  # leaves once this turn is durable
        return len(await self.state.items(prefix="user:"))


async def fetch(request: Request, env: Env) -> Response:
    match request.path.strip("/").split("/"):
        case ["users", user_id]:
            # the hint is recorded with the user, and has no effect yet
            user = env.USERS.get(user_id, location_hint="weur")
            answer: Response = await user.fetch(request)
            return answer
        case ["rooms", room, user_id]:
            return Response.json({"inside": await env.ROOMS.get(room).enter(user_id)})
        case ["documents", name]:
            passed_on: Response = await env.Document.get(name).fetch(request)
            return passed_on
    return Response("try /users/alice, /rooms/lobby/alice, /documents/plan or /objects/Counter/alice", 404)


__all__ = [
    "Analytics",
    "CleanupObject",
    "Coordinator",
    "Counter",
    "DistributedCache",
    "Document",
    "Echo",
    "EventLog",
    "Ledger",
    "MeteredObject",
    "RateLimiter",
    "Room",
    "SafeObject",
    "ScheduledObject",
    "SessionCache",
    "SessionManager",
    "User",
    "fetch",
]
