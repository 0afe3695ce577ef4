"""Accounts that never lose or make money: a whole turn is one transaction, and
turns come one after the other.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from perdure import DurableObject, Refusal

Amount = Annotated[int, Field(gt=0, le=10**15)]  # other values over RPC are refused before a turn begins


class Ledger(DurableObject):
    async def deposit(self, account: str, amount: Amount) -> int:
        """Add `amount` to an account, and return its balance."""
        balance: int = await self.state.get(f"account:{account}", 0) + amount
        await self.state.put(f"account:{account}", balance)
        return balance

    async def transfer(self, source: str, target: str, amount: Amount) -> dict[str, int]:
        """Move `amount`, and return both balances. If the source has too little, nothing is moved."""
        received = await self.deposit(target, amount)
        left = await self.deposit(source, -amount)
        if left < 0:
            raise Refusal(f"{source} has too little", code="too-little", detail={"missing": -left})
        return {source: left, target: received}

    async def balances(self) -> dict[str, int]:
        """The balance of each account."""
        accounts = await self.state.items(prefix="account:")
        return {name.removeprefix("account:"): balance for name, balance in accounts.items()}
