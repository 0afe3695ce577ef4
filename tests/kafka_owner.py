"""An owner on a real Kafka, without a server around it, for tests that look into it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from random import Random

from perdure.objects.registry import Registry
from perdure.streams.log.kafka.log import KafkaLog
from perdure.streams.opening import clock_ms
from perdure.streams.owner.owner import Owner
from perdure.streams.owner.recovery import live
from perdure.streams.owner.socket_watch import GatewayWatch
from perdure.streams.state.tables import Tables
from perdure.streams.turns.ports import (
    Identity,
    Ingress,
    OwnerState,
    Ports,
    RecoveryServices,
    Transport,
    TurnServices,
)
from tests.contract.logs import PATIENCE_S


async def until(true: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(
    log: KafkaLog, ingress: Ingress, registry: Registry, tables: Tables, node: str
) -> AsyncIterator[Owner]:
    """An owner that serves the partition of `tables`. `node` is new for each start;
    its claims are named by it.
    """
    uuids = count()
    ports = Ports(
        Transport(log, ingress, clock_ms, Random(1)),
        TurnServices(registry),
        RecoveryServices(lambda: f"{node}-{next(uuids)}"),
        Identity(node=node, app_uuid="app-uuid"),
        GatewayWatch(),
    )
    owner = Owner(ports, tables)
    living = asyncio.create_task(live(owner))
    try:
        await until(lambda: owner.state is OwnerState.SERVING)
        yield owner
    finally:
        living.cancel()
        owner.end_epoch()
