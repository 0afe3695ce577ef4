"""The console in a real browser: a person finds out who withdrew the money, and nothing bars them."""

from __future__ import annotations

from pathlib import Path

import httpx
from tests.chromium import axe_source, browser
from tests.process import serve

APP = """
from perdure import DurableObject, Refusal

class Account(DurableObject):
    async def deposit(self, amount: int) -> int:
        balance: int = await self.state.get("balance", 0) + amount
        await self.state.put("balance", balance)
        return balance

    async def withdraw(self, amount: int) -> int:
        balance: int = await self.state.get("balance", 0) - amount
        if balance < 0:
            raise Refusal("too little")
        await self.state.put("balance", balance)
        return balance
"""
PATIENCE_S = 30.0


def test_a_person_finds_out_who_withdrew_the_money(tmp_path: Path) -> None:
    """By keyboard: find the account, go back in its history, call a method, follow the log, ask in SQL."""
    axe = axe_source()
    app = tmp_path / "bank.py"
    app.write_text(APP)
    with serve(app, tmp_path / "data") as server, browser() as tab:

        def call(method: str, amount: int) -> None:
            url = f"{server.url}/rpc/Account/ann/{method}"
            httpx.post(url, json={"args": [amount]}, timeout=PATIENCE_S)

        def clean() -> None:
            for scheme in ("light", "dark"):
                tab.scheme(scheme)
                assert tab.violations(axe) == [], (scheme, tab.run("location.href"))

        for method, amount in (("deposit", 100), ("withdraw", 80), ("withdraw", 50)):
            call(method, amount)
        tab.go(f"{server.url}/console")
        clean()
        tab.run("document.getElementById('find').focus()")
        tab.type("Account/a")
        tab.press("Enter")
        tab.until("document.querySelector('.objects a')?.textContent === 'Account/ann'")
        clean()
        tab.run("document.querySelector('.objects a').focus()")
        tab.press("Enter")
        tab.until("document.getElementById('when') !== null")
        assert "refused" in tab.text()
        tab.run("document.getElementById('when').focus()")
        tab.press("ArrowLeft")  # the refused turn
        tab.until("location.search.includes('at=') && document.getElementById('turn') !== null")
        tab.run("document.getElementById('when').focus()")
        tab.press("ArrowLeft")
        tab.until("document.querySelector('tr.changed td')?.textContent === '20'")
        assert "withdraw(80)" in tab.text()
        clean()
        tab.go(f"{server.url}/console/objects/Account/ann")
        tab.run("document.getElementById('method').focus()")
        tab.type("deposit")
        tab.run("document.getElementById('args').select()")
        tab.type("[5]")
        tab.run("document.querySelector('button[value=call]').focus()")
        tab.press("Enter")
        assert tab.until("document.querySelector('pre[role=status]')?.textContent") == '{"result":25}'
        clean()
        tab.go(f"{server.url}/console/log")
        tab.run("document.getElementById('live').click()")
        tab.until("document.getElementById('live-state').textContent === 'Following'")
        call("deposit", 1)
        tab.until("document.getElementById('live-state').textContent.endsWith('new')")
        assert "deposit [1]" in tab.run("document.querySelector('#records tbody tr').innerText")
        clean()
        for path in ("partitions", "sql?query=select+method,count(*)+from+entries+group+by+1"):
            tab.go(f"{server.url}/console/{path}")
            clean()
        assert "withdraw" in tab.text()
        assert tab.run("document.querySelectorAll('.chart rect').length") == 2
        assert tab.errors == []
