"""The app that is simulated: operations whose effects and answers a checker can tell apart.

What differs between two runs of one command (`token`, `maybe`) comes from the node that runs it, so an answer
from an owner that had no right to give it does not match the journal.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random
from typing import Any

from perdure import AlarmInfo, DurableObject, Refusal, Request, Response, Unavailable, WebSocket

MARK = "m:"
PAID = "p:"  # and then what a call paid for: once
ALARM = "alarm:"  # and then what an alarm paid for: once, and once more after each run that failed
CRON = "cron"  # the alarm that rings each minute, in runs whose clocks step back
LEASE = "lease"  # the value that may expire
EACH_MINUTE = "* * * * *"
SHOUTS = 5  # frames of one turn that must not overtake each other
TTLS_S = (0.05, 0.3, 2.0)


def busy() -> Unavailable:
    """What a call to an object results in that has no room: the caller is not done either."""
    error = Unavailable("another one")
    error.of_call = True
    return error


class Sample(DurableObject):
    """`POST /op/mark/other`; every operation that changes something leaves its mark behind.

    `other` names another object, for operations that speak to one.
    """

    async def fetch(self, request: Request) -> Response:
        _, op, mark, other = request.path.split("/")
        random: Random = self.env.random()
        if op == "connect":
            await self.state.accept_websocket(request)
            await self.state.put(MARK + mark, True)
            return Response.upgrade()
        to = (other,) if op in SPEAKING else ()
        return Response.json(await getattr(self, f"do_{op}")(mark, random, *to))

    async def do_add(self, mark: str, random: Random) -> Any:
        self.env.toil()
        count = await self.state.get("count", 0) + 1
        await self.state.put({"count": count, MARK + mark: True})
        return count

    async def do_token(self, mark: str, random: Random) -> Any:
        token = random.getrandbits(40)
        await self.state.put("token", token)
        await self.state.put(MARK + mark, True)
        return token

    async def do_maybe(self, mark: str, random: Random) -> Any:
        roll = random.random()
        if roll < 0.4:
            return False
        if roll < 0.5:
            raise busy()
        return await self.do_token(mark, random)

    async def do_get(self, mark: str, random: Random) -> Any:
        return [await self.state.get("count", 0), await self.state.get("token")]

    async def do_marks(self, mark: str, random: Random) -> Any:
        return len((await self.state.list(prefix=MARK)).keys)

    async def do_slow(self, mark: str, random: Random) -> Any:
        count = await self.state.get("count", 0)
        await asyncio.sleep(random.random() * 0.2)
        await self.state.put({"count": count + 1, MARK + mark: True})
        return count + 1

    async def do_alarm(self, mark: str, random: Random) -> Any:
        await self.state.set_alarm(timedelta(milliseconds=random.randrange(2000)))
        if self.env.cron:
            await self.state.set_alarm(cron=EACH_MINUTE, name=CRON)
        await self.state.put(MARK + mark, True)
        return await self.state.get_alarm()

    async def alarm(self, info: AlarmInfo) -> None:
        random: Random = self.env.random()
        if info.name == CRON:
            await self.state.put(CRON, await self.state.get(CRON, 0) + 1)
            return
        rings = await self.state.get("rings", 0) + 1
        await self.state.put("rings", rings)
        if random.random() < 0.2:
            await asyncio.sleep(random.random() * 0.3)
        if random.random() < 0.2:
            raise ValueError("the alarm")
        name = self.state.id.name
        if int(name) > 3 or rings % 2:
            return
        for other in self._others(str((int(name) + 1) % 4))[:2]:
            await self.env.SAMPLES.get(other).pay(f"{ALARM}{self.state.id}.{rings}.{other}")
            for _ in range(16):  # few runs come here, so that it counts for more
                self.env.step("alarm.after_a_call")
            if random.random() < 0.2:
                raise busy()

    async def do_fail(self, mark: str, random: Random) -> Any:
        await self.state.put("count", -1)
        raise ValueError(mark)

    async def do_refuse(self, mark: str, random: Random) -> Any:
        await self.state.put("count", -2)
        raise Refusal(mark)

    async def do_forget(self, mark: str, random: Random) -> Any:
        return await self.state.delete("token")

    # To other objects

    async def do_call(self, mark: str, random: Random, other: str) -> Any:
        stub, told = self.env.SAMPLES.get(other), []
        for _ in range(2):  # the same question twice: two effects
            told.append(await stub.lend(mark.encode()))
            self.env.step(f"caller.after_call_{len(told)}")
        if random.random() < 0.15:
            raise ValueError(mark)
        await self.state.put(MARK + mark, True)
        return told

    async def do_send(self, mark: str, random: Random, other: str) -> Any:
        sender = self.env.SAMPLES.get(other).send
        sender.note(mark)
        await self.state.put(MARK + mark, True)
        if (roll := random.random()) < 0.3:
            raise ValueError(mark) if roll < 0.15 else Refusal(mark)
        sender.note(mark)
        return True

    async def do_spread(self, mark: str, random: Random, other: str) -> Any:
        """Two lines of calls side by side; within a line each is made when the one before was answered."""
        names = self._others(other)
        first, second = (self.env.SAMPLES.get(name) for name in names[:2])

        async def pay_twice() -> None:
            for n in (1, 2):
                await first.pay(f"{mark}.a{n}")
                await asyncio.sleep(random.random() * 0.1)

        async def relay_and_pay() -> None:
            await second.relay(f"{mark}.b", names[2])
            await asyncio.sleep(random.random() * 0.1)
            await first.pay(f"{mark}.c")
            self.env.step("caller.after_a_line")

        await asyncio.gather(pay_twice(), relay_and_pay())
        await asyncio.sleep(random.random() * 0.1)
        await self.state.put(MARK + mark, True)
        return True

    async def do_fickle(self, mark: str, random: Random, other: str) -> Any:
        """Asks for something else in each run."""
        tag = f"{mark}.{random.getrandbits(40)}"
        await self.env.SAMPLES.get(other).pay(tag)
        self.env.step("caller.after_a_fickle_call")
        await asyncio.sleep(random.random() * 0.2)
        await self.state.put(MARK + mark, True)
        return tag

    def _others(self, other: str) -> list[str]:
        return [other, *(name for name in "0123" if name not in (other, self.state.id.name))]

    async def pay(self, tag: str) -> int:
        paid: int = await self.state.get(PAID + tag, 0) + 1
        await self.state.put(PAID + tag, paid)
        return paid

    async def relay(self, tag: str, to: str) -> int:
        paid: int = await self.env.SAMPLES.get(to).pay(tag)
        await asyncio.sleep(self.env.random().random() * 0.15)
        await self.state.put("relayed", await self.state.get("relayed", 0) + 1)
        return paid

    async def lend(self, mark: bytes) -> int:
        if type(mark) is not bytes:
            raise TypeError(f"{mark!r} is not of the annotated type")
        credits: int = await self.state.get("credits", 0) + 1
        await self.state.put("credits", credits)
        if self.env.random().random() < 0.05:
            raise Refusal(mark.decode())
        return credits

    async def note(self, mark: str) -> None:
        await self.state.put("notes", await self.state.get("notes", 0) + 1)

    # Values that expire

    async def do_lease(self, mark: str, random: Random) -> Any:
        value = random.getrandbits(40)
        await self.state.put(LEASE, value, expiration_ttl=random.choice(TTLS_S))
        await self.state.put(MARK + mark, True)
        return value

    async def do_keep(self, mark: str, random: Random) -> Any:
        value = random.getrandbits(40)
        await self.state.put({LEASE: value, MARK + mark: True})
        return value

    async def do_look(self, mark: str, random: Random) -> Any:
        return [await self.state.get(LEASE), self.state.now]

    # WebSockets

    async def do_shout(self, mark: str, random: Random) -> Any:
        self.state.broadcast(mark + ".1")
        await self.state.put(MARK + mark, True)
        if random.random() < 0.15:
            raise ValueError(mark)
        for n in range(2, SHOUTS + 1):
            self.state.broadcast(f"{mark}.{n}")
        return True

    async def do_kick(self, mark: str, random: Random) -> Any:
        for socket in self.state.websockets():
            socket.close(4000, mark)
        await self.state.put(MARK + mark, True)
        return True

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        await self.state.put("heard", await self.state.get("heard", 0) + 1)
        await ws.send(message)

    async def websocket_close(self, ws: WebSocket, code: int, reason: str, was_clean: bool) -> None:
        await self.state.put("left", await self.state.get("left", 0) + 1)


OPS = (
    ("add", 18),
    ("get", 12),
    ("token", 8),
    ("maybe", 8),
    ("slow", 7),
    ("marks", 2),
    ("fail", 4),
    ("refuse", 3),
    ("forget", 3),
    ("alarm", 6),
    ("call", 5),
    ("send", 5),
    ("spread", 6),
    ("fickle", 3),
    ("lease", 5),
    ("keep", 1),
    ("look", 6),
    ("connect", 9),
    ("shout", 16),
    ("kick", 1),
    ("speak", 3),  # not of the object: a message over one of its sockets
    ("leave", 1),  # nor this: the far end of one closes it
)
OLD = "Old"  # the namespace that a migration deletes; its objects are of the same class
MOVED = "Moved"  # the one that it brings from another app
OF_THE_OTHERS = frozenset(("add", "get", "token", "alarm"))
SPEAKING = frozenset(("call", "send", "spread", "fickle"))
ONCE = frozenset(("spread", "fickle"))  # what they pay is told apart by their mark only
TO_SOCKETS = frozenset(("shout", "kick"))
ON_A_WIRE = frozenset(("speak", "leave"))
