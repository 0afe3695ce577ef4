"""Transfers by calls, side by side and one after the other, repeated under their keys while the server is
killed again and again: money is neither made nor lost, on both logs.

`PERDURE_KILLS=30 .venv/bin/pytest -n 0 tests/acceptance/test_transfers.py` kills so
often on each log; it is the soak's number.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import httpx
import pytest
from tests.acceptance.harness import SOAK, Deployment, deploy
from tests.acceptance.wire import PATIENCE_S
from tests.unit import plans
from tests.unit.plans import SIDE_BY_SIDE, plan_of, tags_of

KILLS = int(os.environ.get("PERDURE_KILLS", "30" if SOAK else "2"))
CLIENTS = 12
ACCOUNTS = [f"a{n}" for n in range(6)]
BRANCHES = [f"b{n}" for n in range(3)]
DESKS = [f"d{n}" for n in range(4)]
SETTINGS = """deadline_s = 2.0

[[durable_objects.bindings]]
name = "THINGS"
class_name = "Planned"
"""


class Bank:
    """Clients that transfer until they are told to stop; each request is repeated
    under its key until it was answered.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.url = ""  # of the server that runs now
        self.stopped = False
        self.done: dict[str, Any] = {}  # what was asked, by the tag that its payments begin with
        self.answers: Counter[str] = Counter()
        self.failed: list[str] = []
        self._numbers = count()

    def _transfer(self, tag: str) -> Any:
        payer, payee = self.random.sample(ACCOUNTS, 2)
        amount = self.random.randrange(1, 100)
        both = [["pay", payer, f"{tag}.0", -amount], ["pay", payee, f"{tag}.1", amount]]
        transfer: Any = [self.random.choice(SIDE_BY_SIDE), both]
        if self.random.random() < 0.4:  # by way of another object
            return ["call", self.random.choice(BRANCHES), transfer]
        return transfer

    def _plan(self, tag: str) -> Any:
        """A transfer; or anything at all, in which each payment is one coin, and that is paid back."""
        if self.random.random() < 0.7:
            return self._transfer(tag)
        coins = plan_of(self.random, tag, ACCOUNTS, BRANCHES)
        back = ["pay", ACCOUNTS[0], f"{tag}.back", -len(tags_of(coins, tag))]
        return ["line", [coins, back]]

    async def client(self) -> None:
        """One request after the other."""
        async with httpx.AsyncClient(timeout=30) as client:
            while not self.stopped:
                tag = f"t{next(self._numbers)}"
                plan = self._plan(tag)
                await self._ask(client, tag, plan)
                self.done[tag] = plan

    async def _ask(self, client: httpx.AsyncClient, tag: str, plan: Any) -> None:
        desk = self.random.choice(DESKS)
        while True:
            try:
                answer = await client.post(
                    f"{self.url}/rpc/Planned/{desk}/run",
                    json={"args": [plan]},
                    headers={"idempotency-key": tag},
                )
            except httpx.TransportError:
                self.answers["no answer"] += 1
                await asyncio.sleep(0.05)
                continue
            self.answers[str(answer.status_code)] += 1
            if answer.status_code == 200:
                return
            if answer.status_code not in (409, 503, 504):
                self.failed.append(f"{tag} {plan}: {answer.status_code} {answer.text}")
                return
            await asyncio.sleep(0.05)


async def _work(bank: Bank, deployment: Deployment, random: Random) -> None:
    clients: list[asyncio.Task[None]] = []
    for _ in range(KILLS):
        with deployment.serve() as server:
            bank.url = server.url
            clients = clients or [asyncio.create_task(bank.client()) for _ in range(CLIENTS)]
            due, before = random.randrange(5, 60), sum(bank.answers.values())
            while sum(bank.answers.values()) - before < due:  # noqa: ASYNC110 - the answers say when
                await asyncio.sleep(random.random() * 0.02)
            server.kill()
            down_s = 2.1 if random.random() < 0.2 else 0
            await asyncio.sleep(down_s)  # now and then the deadlines of what was under way pass
    with deployment.serve() as server:
        bank.url, bank.stopped = server.url, True
        await asyncio.gather(*clients)
        await _audit(bank)


async def _audit(bank: Bank) -> None:
    assert not bank.failed, bank.failed
    paid: Counter[str] = Counter()
    money = 0
    async with httpx.AsyncClient(timeout=30) as client:
        due = {tag for begin, plan in bank.done.items() for tag in tags_of(plan, begin)}
        while True:  # sends are on their way when what sent them was answered
            paid.clear()
            money = 0
            for account in ACCOUNTS:
                found = (await client.post(f"{bank.url}/rpc/Planned/{account}/paid")).json()["result"]
                money += found.pop("money")
                paid.update({tag.partition("=")[0]: times for tag, times in found.items()})
            if due <= paid.keys():
                break
            await asyncio.sleep(0.1)
    twice = {tag: times for tag, times in paid.items() if times != 1}
    assert not twice, f"paid more than once: {twice}"
    assert paid.keys() == due
    assert money == 0, f"{money} was made, by {len(bank.done)} transfers"


@pytest.mark.timeout(7200 if KILLS > 5 else 300)
def test_money_is_conserved_across_kills(log: str, tmp_path: Path) -> None:
    """2 SIGKILLs (30 in the soak, or `PERDURE_KILLS`) under 12 clients: each
    payment once, and all of each transfer.
    """
    random = Random(20)
    app = Path(plans.__file__)
    name = f"t{uuid4().hex[:12]}"
    deployment = deploy(tmp_path, log=log, name=name, settings=SETTINGS, app=app)
    bank = Bank(random)

    async def told() -> None:
        async with asyncio.timeout(PATIENCE_S + 60 * KILLS):
            await _work(bank, deployment, random)

    asyncio.run(told())
    assert len(bank.done) > 5 * KILLS, bank.answers
    deployment.verify()
