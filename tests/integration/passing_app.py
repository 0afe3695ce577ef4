"""The app of the tests of WebSockets through a Worker: what the first part of a
path says is what the Worker does.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from sockets_app import Listener, Room  # type: ignore[import-not-found]  # its folder is the app's, as for a user's app

from perdure import Refusal, Request, Response

__all__ = ["Listener", "Room"]

going: dict[str, asyncio.Event] = {}


async def fetch(request: Request, env: Any) -> Response:
    _, what, name, *_ = [*request.path.split("/"), ""]
    room = env.Room.get(name)
    match what:
        case "room":
            return await room.fetch(request)  # type: ignore[no-any-return]  # env is Any
        case "listener":
            answer = await env.Listener.get(name).fetch(request)
            return Response(None, 101, web_socket=answer.web_socket)
        case "mine":
            return Response("no ticket", 401, {"x-upgrade": request.headers.get("upgrade", "none")})
        case "nobody":
            return Response.upgrade()
        case "kept":
            await room.fetch(request)
            return Response("kept back", 418)
        case "second":
            with contextlib.suppress(Refusal):
                await room.fetch(request, headers={"x-only": "no upgrade"})
            refused = await env.Room.get("guard").fetch(Request("GET", "/no", request.headers.pairs))
            assert refused.status == 403
            return await room.fetch(request)  # type: ignore[no-any-return]  # as above
        case "both":
            await room.fetch(request)
            return await env.Room.get("other").fetch(request)  # type: ignore[no-any-return]  # as above
        case "wait":
            answer = await room.fetch(request)
            await going.setdefault(name, asyncio.Event()).wait()
            return answer  # type: ignore[no-any-return]  # as above
        case "go":
            going.setdefault(name, asyncio.Event()).set()
            return Response()
    raise AssertionError(request.path)
