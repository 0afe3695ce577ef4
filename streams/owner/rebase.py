"""Letting a journal begin later: the base is journaled by its owner, then the log is trimmed.

Laws [test_retention.py]
- Nothing is trimmed before the base is durable under this owner's epoch, nor further than it says.
- A process that dies in between leaves a journal that begins earlier than it may; the next trimming goes on.
"""

from __future__ import annotations

import asyncio

from perdure.schemas.errors import Unavailable
from perdure.schemas.journal import Base
from perdure.streams import failpoints
from perdure.streams.log.base import Topic
from perdure.streams.owner.owner import Owner
from perdure.streams.turns.ports import OwnerState

DURABLE_S = 30.0  # an epoch that ends meanwhile never says that it is


async def rebase(owner: Owner, base: Base) -> None:
    """Trim the journal of a partition up to `base.start`.

    Raises `Unavailable` if the partition does not serve, or stops serving meanwhile, and as `Log.trim`.
    """
    if owner.state is not OwnerState.SERVING:
        raise owner.not_serving
    if owner.tables.base is None or owner.tables.base.start < base.start:
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failpoints.hit("snapshot.before_base")
        owner.journal.add_base(base, lambda: None if durable.done() else durable.set_result(None))
        try:
            async with asyncio.timeout(DURABLE_S):
                await durable
        except TimeoutError as error:
            raise Unavailable(
                f"partition {owner.partition} stopped serving before its journal could be trimmed"
            ) from error
    failpoints.hit("snapshot.before_trim")
    await owner.log.trim(Topic.JOURNAL, owner.partition, base.start)
    failpoints.hit("snapshot.after_trim")
