"""The clients of the chaos: they move money, keep cells, count, wind chimes and talk, and note what they saw.

Laws
- A call is repeated under its idempotency key, by whichever node, until it is acknowledged: it took effect
  between its first request and that answer. A count and a message on a socket are sent once: without an
  answer they are lost, and may have taken effect or not.
- A socket is opened at a node that does not have its room, as far as that node knows.
- `Progress` is kept by partition: the longest time in which no count of it was acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from random import Random
from typing import Any, Self
from urllib.parse import urlsplit

import websockets
from tests.acceptance.wire import PATIENCE_S, Answer, Wire
from tests.acceptance.witness import Operation, Witness
from tests.wgl import LOST, Call

from perdure.schemas.keys import partition_of

ACCOUNTS, BAGS, ROOMS, CELLS, CHIMES, START = 12, 8, 4, 4, 6, 1_000
PARTITIONS = 6
ANSWER_S = 12.0  # after which a client takes its node for gone
PAUSE_S = 0.01  # talk, not load: the nodes, the brokers and the clients share the machine
BROKEN = (OSError, TimeoutError)


class Progress:
    """When each partition last acknowledged something, and the longest time without since `begin`."""

    def __init__(self) -> None:
        self._acked_s = dict.fromkeys(range(PARTITIONS), time.monotonic())
        self._longest_s = dict.fromkeys(range(PARTITIONS), 0.0)

    def begin(self) -> None:
        """Measure from now on, the times that have begun included."""
        self._longest_s = dict.fromkeys(range(PARTITIONS), 0.0)

    def acked(self, partition: int) -> None:
        now_s = time.monotonic()
        self._longest_s[partition] = max(self._longest_s[partition], now_s - self._acked_s[partition])
        self._acked_s[partition] = now_s

    def longest_s(self) -> dict[int, float]:
        """By partition; a time that goes on counts until now."""
        now_s = time.monotonic()
        return {n: max(longest_s, now_s - self._acked_s[n]) for n, longest_s in self._longest_s.items()}


class Line:
    """One client's connection to whichever node; the next request after a failure goes to another one."""

    def __init__(self, crowd: Crowd, random: Random) -> None:
        self._crowd = crowd
        self._random = random
        self._wire: Wire | None = None
        self._left = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.drop()

    async def wire(self) -> Wire:
        """The connection, opened if there is none; after some requests it is one to another node."""
        if self._left <= 0:
            await self.drop()
        self._left -= 1
        if self._wire is None:
            url = self._random.choice(list(self._crowd.nodes))
            wire = Wire(urlsplit(url).port or 0)
            async with asyncio.timeout(ANSWER_S):
                await wire.__aenter__()
            self._wire, self._left = wire, self._random.randrange(20, 100)
        return self._wire

    async def drop(self) -> None:
        """Close the connection."""
        if self._wire is not None:
            await self._wire.__aexit__(None, None, None)
            self._wire = None

    async def ask(self, method: str, path: str, body: bytes = b"", mark: str = "") -> Answer:
        """One request. Raises `BROKEN` if no answer comes in time."""
        headers = [("content-type", "application/json"), *([("idempotency-key", mark)] if mark else [])]
        try:
            wire = await self.wire()
            async with asyncio.timeout(ANSWER_S):
                return await wire.ask(method, path, body, headers)
        except BROKEN:
            await self.drop()
            raise

    async def count(self, witness: Witness, key: str, *, adds: bool) -> Operation | None:
        """One request by way of the witness; None if no answer came."""
        try:
            wire = await self.wire()
            async with asyncio.timeout(ANSWER_S):
                return await witness.ask(wire, key, adds=adds)
        except BROKEN:
            await self.drop()
            return None


class Crowd:
    """The clients, in a thread of their own: brokers and nodes are started by the test's.

    `nodes` has the pid of each node that runs, by its address; it is replaced as they come and go.
    """

    def __init__(self, nodes: dict[str, int], seed: int) -> None:
        self.nodes = nodes
        self.over = threading.Event()
        self.seed = seed
        self.tokens: dict[str, dict[str, int]] = {f"b{n}": {} for n in range(BAGS)}
        self.wound: dict[str, set[str]] = {f"c{n}": set() for n in range(CHIMES)}
        self.histories: dict[str, list[Call]] = {}
        self.witness = Witness()
        self.progress = Progress()
        self.counts: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self._marks = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.failure = error

    def stop(self) -> None:
        """No new requests; wait for the answers of those under way. Raises what a client met."""
        self.over.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                for client in (self._giver, self._adder, self._keeper, self._winder):
                    group.create_task(self._client(client, number))
            for number in range(2 * PARTITIONS):
                group.create_task(self._client(self._counter, number))
            for number in range(2 * ROOMS):
                group.create_task(self._talker(number))

    async def _client(self, client: Any, number: int) -> None:
        """Do one thing after the other until it is over."""
        random = Random(f"{client.__name__} {number} {self.seed}")
        async with Line(self, random) as line:
            while not self.over.is_set():
                await client(line, random, number)
                await asyncio.sleep(PAUSE_S)

    async def rpc(self, line: Line, key: str, method: str, *args: Any, **more: Any) -> Any:
        """One call, by whichever node answers, until it is acknowledged; None if it is refused."""
        self._marks += 1
        mark, body = f"k{self._marks}", json.dumps({"args": args, "kwargs": more}).encode()
        until_s = time.monotonic() + 3 * PATIENCE_S
        while time.monotonic() < until_s:
            try:
                answer = await line.ask("POST", f"/rpc/{key}/{method}", body, mark)
            except BROKEN:
                self.counts["broken"] += 1
                await asyncio.sleep(0.1)  # the node is gone: the next one is tried
                continue
            if answer.status == 200:
                self.counts[method] += 1
                return answer.json["result"]
            if answer.code in ("refused", "deadlock"):  # nothing was changed
                self.counts[answer.code] += 1
                return None
            assert answer.status in (409, 503, 504), (key, method, answer)
            self.counts[answer.code] += 1
            await asyncio.sleep(0.1)  # as a client does that is asked to come again
        raise AssertionError(f"{key}.{method} was not acknowledged in time: {self.counts}")

    async def _giver(self, line: Line, random: Random, number: int) -> None:
        one, other = random.sample(range(ACCOUNTS), 2)
        by_message = random.random() < 0.5
        await self.rpc(
            line, f"Account/a{one}", "give", f"a{other}", random.randrange(1, 50), by_message=by_message
        )

    async def _adder(self, line: Line, random: Random, number: int) -> None:
        bag, token = f"b{random.randrange(BAGS)}", f"{number}.{self._marks}"
        call = Call("add", time.monotonic())
        call.answer = place = await self.rpc(line, f"Bag/{bag}", "add", token)
        call.ended_s = time.monotonic()
        self.histories.setdefault(f"Bag/{bag}", []).append(call)
        self.tokens[bag][token] = place

    async def _keeper(self, line: Line, random: Random, number: int) -> None:
        key, value = f"Cell/c{random.randrange(CELLS)}", random.randrange(1, 9)
        request: tuple[Any, ...] = random.choice(
            [("read",), ("read",), ("write", value), ("swap", random.randrange(9), value)]
        )
        call = Call(request, time.monotonic())
        answer = await self.rpc(line, key, *request)
        call.answer = (answer,) if request == ("read",) else answer
        call.ended_s = time.monotonic()
        self.histories.setdefault(key, []).append(call)

    async def _winder(self, line: Line, random: Random, number: int) -> None:
        chime, token = f"c{random.randrange(CHIMES)}", f"{number}.{self._marks}"
        await self.rpc(line, f"Chime/{chime}", "wind", token)
        self.wound[chime].add(token)
        await asyncio.sleep(10 * PAUSE_S)  # each leaves a row

    async def _counter(self, line: Line, random: Random, number: int) -> None:
        partition = number % PARTITIONS
        key = random.choice(COUNTERS[partition])
        operation = await line.count(self.witness, key, adds=random.random() < 0.7)
        if operation is not None and operation.ok:
            self.progress.acked(partition)
            self.counts["counted"] += 1
        else:
            await asyncio.sleep(0.05)  # as a client does that is asked to come again

    async def _talker(self, number: int) -> None:
        """Say something, wait for the echo; after a close connect to another node."""
        random, n, room = Random(f"talker {number} {self.seed}"), 0, f"Room/r{number % ROOMS}"
        history = self.histories.setdefault(room, [])
        while not self.over.is_set():
            try:
                url = await self._far(random, room)
                async with websockets.connect(f"{url}/objects/{room}", open_timeout=ANSWER_S) as socket:
                    while not self.over.is_set():
                        n += 1
                        one, other = random.sample(range(ACCOUNTS), 2)
                        call = Call("add", time.monotonic())
                        history.append(call)
                        await socket.send(f"{number}.{n} a{one} a{other} {random.randrange(1, 50)}")
                        async with asyncio.timeout(30):
                            mark, count = str(await socket.recv()).split()
                        assert mark.rstrip("!") == f"{number}.{n}", f"{mark} is not the echo of {number}.{n}"
                        call.answer, call.ended_s = int(count), time.monotonic()
                        self.counts["echoed"] += 1
                        await asyncio.sleep(2 * PAUSE_S)
            except (*BROKEN, websockets.WebSocketException) as error:
                self.counts[f"closed: {type(error).__name__}"] += 1
                await asyncio.sleep(0.2)  # the node is gone: the next one is tried

    async def _far(self, random: Random, room: str) -> str:
        """The address of a node that does not have the room."""
        async with Line(self, random) as line:
            owners = (await line.ask("GET", "/readyz")).json.get("owners", [])
        pids = {each["partition"]: each.get("pid") for each in owners if each["state"] == "serving"}
        owner = pids.get(partition_of(room, PARTITIONS))
        far = [url for url, pid in self.nodes.items() if pid != owner]
        self.counts["far sockets"] += owner is not None
        return random.choice(far or list(self.nodes)).replace("http", "ws")

    def all_histories(self) -> dict[str, list[Call]]:
        """By object; those of the counters from the witness."""
        found = dict(self.histories)
        for key, operations in self.witness.by_object().items():
            calls = found[key] = []
            for each in operations:
                request = "add" if each.adds else "read"
                if each.ok:
                    calls.append(Call(request, each.began_s, each.ended_s, each.count))
                elif each.adds and each.status not in (503, 507):
                    calls.append(Call(request, each.began_s))
        return found

    @property
    def lost(self) -> int:
        """How many calls have no answer."""
        return sum(call.ended_s == LOST for calls in self.all_histories().values() for call in calls)


def _counters() -> dict[int, list[str]]:
    """Two counters of each partition."""
    found: dict[int, list[str]] = {n: [] for n in range(PARTITIONS)}
    for n in range(200):
        key = f"Counter/n{n}"
        if len(found[partition_of(key, PARTITIONS)]) < 2:
            found[partition_of(key, PARTITIONS)].append(key)
    return found


COUNTERS = _counters()
assert all(len(keys) == 2 for keys in COUNTERS.values())
