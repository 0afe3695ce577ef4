"""Three brokers and three nodes; every few seconds one is killed, stopped for a while, or restarted.

Meanwhile money goes from account to account by calls and by messages, tokens are put into bags, and sockets
talk to rooms. Whatever was acknowledged is there once, no money is made or lost, and the app goes on within
seconds of each fault. `PERDURE_CHAOS_S` is how long it lasts, `PERDURE_CHAOS_SEED` chooses the faults.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import httpx
import pytest
import websockets
from tests.acceptance.harness import Deployment, deploy
from tests.acceptance.wire import PATIENCE_S
from tests.kafka import LocalKafka
from tests.process import Server

ACCOUNTS, BAGS, ROOMS, START = 12, 8, 4, 1_000
SECONDS = float(os.environ.get("PERDURE_CHAOS_S", "60"))
EVERY_S = 10.0
PROGRESS_S = 15.0
APP = Path(__file__).with_name("bank_app.py")

pytestmark = pytest.mark.skipif(
    os.environ.get("PERDURE_SOAK") != "1", reason="long: it runs with PERDURE_SOAK=1"
)


class Crowd:
    """The clients, in a thread of their own: brokers and nodes are started by this one."""

    def __init__(self, urls: list[str], seed: int) -> None:
        self.urls = urls  # of the nodes that run; replaced as they come and go
        self.over = threading.Event()
        self.random = Random(seed)
        self.tokens: dict[str, str] = {}
        self.places: dict[str, set[int]] = {}
        self.counts: dict[str, int] = {}
        self.acked_s = time.monotonic()
        self.longest_s = 0.0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.failure = error

    def stop(self) -> None:
        self.over.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    async def _all(self) -> None:
        async with httpx.AsyncClient(timeout=40) as http, asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(self._givers(http, number))
                group.create_task(self._adders(http, number))
            for number in range(ROOMS):
                group.create_task(self._talker(number))

    def _ok(self, what: str) -> None:
        now_s = time.monotonic()
        self.longest_s = max(self.longest_s, now_s - self.acked_s)
        self.acked_s = now_s
        self.counts[what] = self.counts.get(what, 0) + 1

    async def rpc(self, http: httpx.AsyncClient, key: str, method: str, args: list[Any], **more: Any) -> Any:
        """One call, by whichever node answers, until it is acknowledged; None if it is refused."""
        mark = {"idempotency-key": uuid4().hex}
        until_s = time.monotonic() + 3 * PATIENCE_S
        while time.monotonic() < until_s:
            body = {"args": args, "kwargs": more}
            try:
                url = self.random.choice(self.urls)
                answer = await http.post(f"{url}/rpc/{key}/{method}", json=body, headers=mark)
            except httpx.HTTPError:
                self.counts["broken"] = self.counts.get("broken", 0) + 1
                await asyncio.sleep(0.1)  # the node is gone: the next one is tried
                continue
            if answer.status_code == 200:
                return answer.json()["result"]
            if answer.json()["type"].endswith(("refused", "deadlock")):  # nothing was changed
                return None
            assert answer.status_code in (409, 503, 504), answer.text
            why = answer.json()["type"].rpartition(":")[2]
            self.counts[why] = self.counts.get(why, 0) + 1
            await asyncio.sleep(0.1)  # as a client does that is asked to come again
        raise AssertionError(f"{key}.{method} was not acknowledged in time: {self.counts}")

    async def _givers(self, http: httpx.AsyncClient, number: int) -> None:
        random = Random(f"giver {number}")
        while not self.over.is_set():
            one, other = random.sample(range(ACCOUNTS), 2)
            args = [f"a{other}", random.randrange(1, 50)]
            await self.rpc(http, f"Account/a{one}", "give", args, by_message=random.random() < 0.5)
            self._ok("given")

    async def _adders(self, http: httpx.AsyncClient, number: int) -> None:
        random, n = Random(f"adder {number}"), 0
        while not self.over.is_set():
            bag, token, n = f"b{random.randrange(BAGS)}", f"{number}.{n}", n + 1
            place = await self.rpc(http, f"Bag/{bag}", "add", [token])
            assert place not in self.places.setdefault(bag, set()), f"two tokens at {place} of {bag}"
            self.places[bag].add(place)
            self.tokens[token] = bag
            self._ok("added")

    async def _talker(self, number: int) -> None:
        """Say something, wait for the echo; after a close connect to another node."""
        n = 0
        while not self.over.is_set():
            url = self.random.choice(self.urls).replace("http", "ws")
            try:
                async with websockets.connect(f"{url}/objects/Room/r{number}", open_timeout=20) as socket:
                    while not self.over.is_set():
                        n += 1
                        await socket.send(f"{number}.{n}")
                        async with asyncio.timeout(30):
                            said = str(await socket.recv())
                        assert said.split()[0] == f"{number}.{n}", f"{said} is not the echo of {number}.{n}"
                        self._ok("echoed")
                        await asyncio.sleep(0.02)  # talk, not load
            except (OSError, TimeoutError, websockets.WebSocketException):
                self.counts["closed"] = self.counts.get("closed", 0) + 1
                await asyncio.sleep(0.2)  # the node is gone: the next one is tried


class Nodes:
    """Three nodes, each in its own place."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._stacks: dict[int, ExitStack] = {}
        self.servers: dict[int, Server] = {}

    def start(self, number: int) -> None:
        own = Deployment(self._deployment.folder, self._deployment.data.with_name(f"data{number}"))
        stack = self._stacks[number] = ExitStack()
        self.servers[number] = stack.enter_context(own.serve())

    def end(self, number: int, sig: signal.Signals) -> None:
        self.servers.pop(number).stop(sig)
        self._stacks.pop(number).close()

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers.values()]


def _fault(random: Random, nodes: Nodes, brokers: LocalKafka, crowd: Crowd) -> str:
    """One fault; the node or broker is back when it returns."""
    what = random.choice(("kill node", "stop node", "end node", "kill broker", "stop broker", "kill node"))
    number = random.choice((1, 2, 3))
    if what == "stop node":
        pid = nodes.servers[number].pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(random.random() * 9)  # how long it is away is the fault
        os.kill(pid, signal.SIGCONT)
    elif what in ("kill node", "end node"):
        crowd.urls[:] = [server.url for n, server in nodes.servers.items() if n != number]
        nodes.end(number, signal.SIGKILL if what == "kill node" else signal.SIGTERM)
        nodes.start(number)
        crowd.urls[:] = nodes.urls
    elif what == "kill broker":
        brokers.kill(number)
        brokers.start(number)
    else:
        os.kill(brokers.pid(number), signal.SIGSTOP)
        time.sleep(random.random() * 6)  # how long it is away is the fault
        os.kill(brokers.pid(number), signal.SIGCONT)
    return f"{what} {number}"


async def _check(crowd: Crowd) -> None:
    async with httpx.AsyncClient(timeout=40) as http:
        total = -1
        async with asyncio.timeout(PATIENCE_S):
            while total != ACCOUNTS * START:  # messages between accounts may be under way
                balances = [await crowd.rpc(http, f"Account/a{n}", "balance", []) for n in range(ACCOUNTS)]
                total = sum(balances)
        for number in range(BAGS):
            tokens = await crowd.rpc(http, f"Bag/b{number}", "tokens", [])
            assert len(tokens) == len(set(tokens)), f"a token is twice in b{number}"
            wanted = {token for token, bag in crowd.tokens.items() if bag == f"b{number}"}
            assert wanted <= set(tokens), f"b{number} has lost {wanted - set(tokens)}"


def test_no_money_is_made_or_lost_while_nodes_and_brokers_die(cluster: LocalKafka, tmp_path: Path) -> None:
    """And every acknowledged token is there once; after each fault the app goes on within `PROGRESS_S`."""
    seed = int(os.environ.get("PERDURE_CHAOS_SEED", "1"))
    (tmp_path / "secret").write_text("the secret that all nodes of this app share")
    settings = f'standbys = 1\nseal_secret_file = "{tmp_path / "secret"}"\n'
    log = f"kafka://{cluster.bootstrap}"
    deployment = deploy(
        tmp_path, log=log, name=f"t{uuid4().hex[:12]}", partitions=6, settings=settings, app=APP
    )
    nodes, random, story = Nodes(deployment), Random(seed), list[str]()
    for number in (1, 2, 3):
        nodes.start(number)
    crowd = Crowd(nodes.urls, seed)
    until_s = time.monotonic() + SECONDS
    try:
        while time.monotonic() < until_s:
            crowd.longest_s = 0.0
            story.append(_fault(random, nodes, cluster, crowd))
            time.sleep(EVERY_S)  # the pace of the faults
            crowd.longest_s = max(crowd.longest_s, time.monotonic() - crowd.acked_s)
            assert crowd.longest_s < PROGRESS_S, f"{story}: nothing for {crowd.longest_s:.1f} s"
            assert crowd.failure is None, story
    finally:
        crowd.stop()
    asyncio.run(_check(crowd))
    print(json.dumps({"faults": story, **crowd.counts}))
    for number in (1, 2, 3):
        nodes.end(number, signal.SIGTERM)
