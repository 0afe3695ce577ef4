"""An owner on a real Kafka, without a server around it, for tests that look into it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from perdure.api.testing.process import Process
from perdure.objects.registry import Registry
from perdure.streams.log.kafka.log import KafkaLog
from perdure.streams.opening import clock_ms
from perdure.streams.owner.owner import Owner
from perdure.streams.store.base import Store
from perdure.streams.turns.ports import (
    Identity,
    Ingress,
    OwnerState,
)
from tests.contract.logs import PATIENCE_S


async def until(true: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(
    log: KafkaLog, ingress: Ingress, registry: Registry, store: Store, partition: int, node: str
) -> AsyncIterator[Owner]:
    """An owner that serves `partition`; `node` is new for each start, and names its claims."""
    identity = Identity(node=node, app_uuid="app-uuid")
    process = Process(log, ingress, registry, store, identity, clock_ms=clock_ms, partitions=(partition,))
    (owner,) = process.owners
    process.begin()
    try:
        await until(lambda: owner.state is OwnerState.SERVING)
        yield owner
    finally:
        await process.end()
