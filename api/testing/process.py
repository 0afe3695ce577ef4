"""The owners of one process in tests, wired to a log, a store and an ingress that takes their replies.

`World` and perdure's own harnesses build on it. A server wires the same parts in `Node`, which adds files,
doors and housekeeping.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from random import Random

from perdure.objects.outgoing import Outside
from perdure.objects.registry import Registry
from perdure.schemas.foreign import NO_RULES, RecordRules
from perdure.schemas.migrations import Step
from perdure.schemas.seal import Seal
from perdure.streams.log.base import Log
from perdure.streams.owner.owner import Owner
from perdure.streams.owner.recovery import live
from perdure.streams.owner.socket_watch import GatewayWatch
from perdure.streams.state.tables import Tables
from perdure.streams.store.base import Store
from perdure.streams.turns.object_quotas import ObjectQuotas
from perdure.streams.turns.ports import (
    UNSEALED,
    Identity,
    Ingress,
    OwnerState,
    PartitionBounds,
    Ports,
    RecoveryServices,
    TransferSources,
    Transport,
    TurnServices,
)

STARTING = (OwnerState.NEW, OwnerState.BEGINNING)


class Process:
    """The owners of some partitions, and the tasks in which they live."""

    def __init__(
        self,
        log: Log,
        ingress: Ingress,
        registry: Registry,
        store: Store,
        identity: Identity,
        *,
        clock_ms: Callable[[], int],
        random: Random | None = None,
        seal: Seal = UNSEALED,
        new_uuid: Callable[[], str] | None = None,
        partitions: Iterable[int] | None = None,
        bounds: PartitionBounds | None = None,
        outside: Outside | None = None,
        object_quotas: ObjectQuotas | None = None,
        after_crash: bool = False,
        migrations: tuple[Step, ...] = (),
        foreign_apps: TransferSources | None = None,
        charged: Mapping[int, int] | None = None,
        rules: RecordRules = NO_RULES,
    ) -> None:
        """Make the owners; none lives before `begin`.

        Args:
            log: the log of the app, with its topics.
            ingress: receives what owners answer.
            registry: the classes of the app.
            store: the rows of all partitions.
            identity: the names of this process; those of its claims if `new_uuid` is None.
            clock_ms: the wall clock.
            random: the source of randomness of turns; None for a seeded one.
            seal: signs what only perdure may send.
            new_uuid: names each claim, entry and trace; unique among all processes on the log.
            partitions: the partitions to own; None for all.
            bounds: the limits of each partition.
            outside: serves `perdure.fetch`.
            object_quotas: counts the objects that each principal created.
            after_crash: the previous process died while it ran a turn's code.
            migrations: the steps of the app's configuration.
            foreign_apps: where the objects of transferred classes are read.
            charged: how often the process died during the command at each offset.
            rules: how records of other systems are read.
        """
        numbers = count()
        self.ports = Ports(
            Transport(log, ingress, clock_ms, random or Random(1), seal, rules),
            TurnServices(registry, object_quotas=object_quotas, outside=outside, after_crash=after_crash),
            RecoveryServices(
                new_uuid or (lambda: f"{identity.node}-{next(numbers)}"),
                migrations,
                foreign_apps,
                crash_counts=lambda partition, end: charged or {},
            ),
            identity,
            GatewayWatch(),
        )
        self.owners = [
            Owner(self.ports, Tables(store, partition, exclusive=log.exclusive), bounds)
            for partition in (range(log.partitions) if partitions is None else partitions)
        ]
        self.lives: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Let all owners live."""
        self.lives = [asyncio.create_task(live(owner)) for owner in self.owners]

    @property
    def starting(self) -> bool:
        """True if an owner neither serves yet nor has ended."""
        return any(owner.state in STARTING for owner in self.owners)

    async def end(self) -> None:
        """End all owners, as the death of the process does; what is durable stays."""
        for life in self.lives:
            life.cancel()
        for owner in self.owners:
            owner.end_epoch()
        if self.lives:
            await asyncio.wait(self.lives)
