"""An object that tidies up: `POST /{item}` keeps an item for `ITEM_S` seconds, an
alarm deletes it after that.
"""

from __future__ import annotations

from perdure import DurableObject, Request, Response


class CleanupObject(DurableObject):
    async def fetch(self, request: Request) -> Response:
        if request.method == "POST":
            name = request.path.split("/")[1]
            if not name:
                return Response("name the item: POST /{item}", 400)
            ends_ms = self.state.now + int(getattr(self.env, "ITEM_S", 3600) * 1000)
            item = {"body": await request.text(), "expiration": ends_ms}
            await self.state.put(name, item)
            if await self.state.get_alarm() is None:
                await self.state.set_alarm(ends_ms)
            return Response("kept")
        return Response.json({name: item["body"] for name, item in (await self.state.items()).items()})

    async def alarm(self) -> None:
        ends = []
        for name, item in (await self.state.items()).items():
            if item["expiration"] <= self.state.now:
                await self.state.delete(name)
            else:
                ends.append(item["expiration"])
        if ends:
            await self.state.set_alarm(min(ends))
