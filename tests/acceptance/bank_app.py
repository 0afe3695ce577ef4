"""The app of the chaos on Kafka: accounts whose money stays the same, bags of tokens, rooms with sockets."""

from __future__ import annotations

from perdure import DurableObject, Refusal, Request, Response, WebSocket

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


class Room(DurableObject):
    """Answers each message on its socket, with how many it has had."""

    async def fetch(self, request: Request) -> Response:
        await self.state.accept_websocket(request)
        return Response.upgrade()

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        count = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        ws.send(f"{message!s} {count}")
