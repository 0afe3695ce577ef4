"""The app of the chaos on Kafka: accounts whose money stays the same, bags of tokens, cells, counters,
chimes, and rooms that move money for what is said on their sockets.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from perdure import AlarmInfo, DurableObject, Refusal, Request, Response, WebSocket

START = 1_000


class Account(DurableObject):
    """Begins with `START`; what one gives another gets, by a call or by a message."""

    async def balance(self) -> int:
        balance: int = await self.state.get("balance", START)
        return balance

    async def deposit(self, amount: int) -> int:
        balance = await self.balance() + amount
        await self.state.put("balance", balance)
        return balance

    async def give(self, to: str, amount: int, *, by_message: bool) -> int:
        balance = await self.balance() - amount
        if balance < 0:
            raise Refusal("there is not enough")
        await self.state.put("balance", balance)
        other = self.env.Account.get(to)
        if by_message:
            other.send.deposit(amount)
        else:
            await other.deposit(amount)
        return balance


class Bag(DurableObject):
    """Keeps tokens in order."""

    async def add(self, token: str) -> int:
        tokens: list[str] = await self.state.get("tokens", [])
        await self.state.put("tokens", [*tokens, token])
        return len(tokens) + 1

    async def tokens(self) -> list[str]:
        tokens: list[str] = await self.state.get("tokens", [])
        return tokens


class Cell(DurableObject):
    """A register."""

    async def read(self) -> int:
        value: int = await self.state.get("value", 0)
        return value

    async def write(self, value: int) -> None:
        await self.state.put("value", value)

    async def swap(self, old: int, new: int) -> bool:
        if await self.read() != old:
            return False
        await self.state.put("value", new)
        return True


class Counter(DurableObject):
    """`POST /{mark}` adds one, `GET /{mark}` reads; the mark tells one request from another on the log."""

    async def fetch(self, request: Request) -> Response:
        count: int = await self.state.get("count", 0)
        if request.method == "POST":
            count += 1
            await self.state.put("count", count)
        return Response.json({"count": count})


class Chime(DurableObject):
    """Strikes once for each winding, a moment later by an alarm."""

    async def wind(self, token: str) -> None:
        await self.state.set_alarm(timedelta(seconds=1), name=token)

    async def alarm(self, info: AlarmInfo) -> None:
        struck: list[Any] = await self.state.get("struck", [])
        early = self.state.now < info.scheduled_ms
        await self.state.put("struck", [*struck, [info.name, early]])

    async def struck(self) -> list[Any]:
        struck: list[Any] = await self.state.get("struck", [])
        return struck


class Room(DurableObject):
    """Moves money for each message on its socket, `MARK FROM TO AMOUNT`; answers with how many it has had."""

    async def fetch(self, request: Request) -> Response:
        await self.state.accept_websocket(request)
        return Response.upgrade()

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        mark, one, other, amount = str(message).split()
        try:
            await self.env.Account.get(one).give(other, int(amount), by_message=True)
        except Refusal:
            mark += "!"
        count = await self.count() + 1
        await self.state.put("count", count)
        ws.send(f"{mark} {count}")

    async def count(self) -> int:
        count: int = await self.state.get("count", 0)
        return count
