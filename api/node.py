"""A node: the log, the store, the owners, the gateway and the doors of one app, connected in one process.

`Node` opens these parts from the configuration, in the order of their dependencies, and closes them in
reverse. `doors.py` builds the HTTP side of it, and `server.py` serves the result.

Laws
- Nothing is served before each partition of this node serves, or has stopped with a reason.
- A failure of the store, or of the log as a whole, stops the node: `stopped` holds the reason, and the
  process that runs the node ends. A single partition's failure shows in /readyz and in the 503 of its
  objects.
- Every task belongs to the node and ends with it. [test_ending.py]
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from perdure.api.doors import access_for, door_for, pages_for, protocol_for
from perdure.api.gateway import Gateway
from perdure.api.identity import identity_of
from perdure.api.kafka_listener import open_kafka
from perdure.api.problems import Problem
from perdure.api.protocol.http import HttpProtocol
from perdure.api.sockets.registry import SocketRegistry
from perdure.api.telemetry.access_log import logs_requests
from perdure.api.telemetry.metrics import exposition
from perdure.api.telemetry.readiness import readiness
from perdure.api.telemetry.replay_progress import ReplayProgress
from perdure.api.worker.outgoing import Outgoing
from perdure.api.worker.worker import Function, Worker
from perdure.objects.overlay import TurnLimits
from perdure.objects.registry import Registry
from perdure.schemas.access import quota_of
from perdure.schemas.config import Config, record_rules
from perdure.schemas.errors import ConfigError, PerdureError, StorageFailed, Unavailable
from perdure.schemas.seal import Seal
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.opening import clock_ms, new_uuid, open_data, say_zones, start_log
from perdure.streams.owner.handover import end_turns
from perdure.streams.owner.maintenance import Maintenance
from perdure.streams.owner.owner import Owner
from perdure.streams.owner.rebase import rebase
from perdure.streams.owner.recovery import live
from perdure.streams.owner.socket_watch import GatewayWatch
from perdure.streams.placement.home import home_of
from perdure.streams.placement.placement import Placement
from perdure.streams.rebuild.coordinator import Helpers
from perdure.streams.secret import seal_of
from perdure.streams.snapshots.service import snapshots_of
from perdure.streams.snapshots.trimmed import trimmed_among, vouch_by
from perdure.streams.state.fold import drop_older
from perdure.streams.state.object_scan import warn_of_the_unserved
from perdure.streams.state.tables import Tables
from perdure.streams.store.rocks import RocksStore
from perdure.streams.teardown import Closing, to_its_end
from perdure.streams.transfer.foreign_app import ForeignApps
from perdure.streams.turns.eviction import Evictor
from perdure.streams.turns.inline_task import write_word_to
from perdure.streams.turns.object_quotas import ObjectQuotas
from perdure.streams.turns.ports import (
    OwnerState,
    PartitionBounds,
    Ports,
    RecoveryServices,
    Transport,
    TurnServices,
)
from perdure.streams.turns.run_queue import RunQueue
from perdure.streams.turns.supervision import unawaited
from perdure.streams.turns.supervision.crash_marker import CrashMarker
from perdure.streams.turns.supervision.watchdog import Watchdog

if TYPE_CHECKING:  # an extra
    from perdure.api.telemetry.spans import Spans


class Node:
    """A node of one app: `async with Node(config, registry) as node`, then serve `node.asgi`.

    Entering raises an `OperatorError` if the node cannot start; its text says why, and what to do. A later
    failure that ends the node resolves `stopped`.
    """

    asgi: Callable[..., Awaitable[None]]
    http: type[HttpProtocol]

    def __init__(
        self,
        config: Config,
        registry: Registry,
        worker: Function | None = None,
        tracing: Spans | None = None,
        *,
        dev: bool = False,
        kafka: socket.socket | None = None,
    ) -> None:
        """Store the parts; nothing is opened before the node is entered.

        Args:
            config: the configuration of the app.
            registry: the app's classes.
            worker: the app's `async def fetch(request, env)`; None if it has none.
            tracing: receives a span for each request, turn and call; None if the process does not trace.
            dev: True for `perdure dev`: administration is open behind a Worker too.
            kafka: a bound socket on which the embedded log answers Kafka clients; None if it does not.
        """
        self._dev = dev
        self._kafka = kafka
        self.worker = worker
        self.tracing = tracing
        self.config = config
        self.registry = registry
        self.name = f"{os.getpid():x}{new_uuid()[:8]}"
        self.stopped: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._opened = Closing()
        self.owners: list[Owner] = []
        self.placement: Placement | None = None  # on a log that nodes share

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException as error:
            await to_its_end(self._leave(drain=False))
            failure = self._opened.failure
            if isinstance(error, asyncio.CancelledError) and failure is not None:
                raise failure from None  # it was cancelled, and could not close everything
            raise  # failures to close are logged; the caller gets the reason why the node could not start
        return self

    async def _open(self) -> None:
        config = self.config
        data = open_data(config)
        opened = self._opened
        opened.push_blocking("the data directory", data.close)
        page = CrashMarker(data.poison_path)
        opened.push("the crash marker", page.close)
        opened.push("the word of the crash marker", lambda: write_word_to(None))
        write_word_to(page.now)
        opened.push("the watch for coroutines that are never awaited", unawaited.watch())
        self.log = log = await start_log(config, data, self.name)
        log.on_stopped = self._stop
        opened.push("the log", log.close)
        self.store = store = RocksStore(data.state_path)
        opened.push_blocking("the store", store.close)
        vouch = vouch_by(config, log, data, store)
        app_uuid = await bootstrap_log(log, config.name, data.app_uuid, vouch)
        drop_older(store, set(range(log.partitions)) - await trimmed_among(log, range(log.partitions)))
        seal = seal_of(config, data.path, app_uuid)
        self.gateway = Gateway(
            log, node=self.name, deadline_s=config.deadline_s, clock_ms=clock_ms, seal=seal
        )
        self.gateway.tracing = self.tracing
        outgoing = Outgoing(body_bytes=config.limits.fetch_bytes, timeout_s=config.deadline_s)
        opened.push("the HTTP client of perdure.fetch", outgoing.close)
        self._run_queue = RunQueue(time.perf_counter)
        self.sockets = SocketRegistry(self.gateway, log, seal, node=self.name, run_queue=self._run_queue)
        self._transfers = ForeignApps(config, data.path / "transfer.tmp", log.partitions)
        opened.push("the data of other apps", self._transfers.close)
        self.snapshots = snapshots = snapshots_of(config, log, data, store, app_uuid)
        self._helpers = Helpers(config, store, data.rebuild_path)
        opened.push("the rebuild helpers", self._helpers.close)
        ports = self._ports(app_uuid, seal, outgoing, page)
        bounds = bounds_of(config)
        self.owners = [
            Owner(ports, Tables(store, p, exclusive=log.exclusive), bounds) for p in range(log.partitions)
        ]
        self.maintenance = self._maintenance()
        if snapshots is not None:
            snapshots.serve(self.owners, self.maintenance.save, rebase)
        await self.gateway.start(self.owners)
        await self._open_doors(outgoing)
        if not log.exclusive:
            await self._place(data.path)
        if (
            self.placement is None or self.placement.alone
        ):  # otherwise a partition at a time, once it is placed here
            if snapshots is not None:
                await snapshots.restoring.restore(owner.tables for owner in self.owners)
            await self._helpers.start(log, [owner.tables for owner in self.owners], ports.recovery.progress)
        for owner in self.owners:
            opened.push(f"the ownership of partition {owner.partition}", owner.end_epoch)
        opened.push("the node's tasks", self._end_tasks)  # before what they wait for is closed
        opened.push("the calls between objects", ports.transport.pending_calls.close)
        opened.push("the gateway", lambda: self.gateway.close(Unavailable("the node has stopped")))
        self._start_tasks()
        await self._come_up()
        if self._kafka is not None:
            await open_kafka(config, log, self._kafka, self._access, opened)
        say_zones()

    def _start_tasks(self) -> None:
        if self.placement is None:
            self._tasks += [self._task(live(owner)) for owner in self.owners]
        else:
            self._opened.push("the placement", self.placement.end)
            self.placement.start()
        if self.snapshots is not None:
            self._tasks.append(self._task(self.snapshots.keep()))
        self._tasks += [
            self._task(self.maintenance.flush_forever()),
            self._task(self.maintenance.trim_forever()),
            self._task(self.gateway.sweep()),
            self._task(Evictor.of(self.owners, self.config.limits, clock_ms).keep()),
            self._task(self.sockets.keep_alive()),
            self._task(self.sockets.beat()),
        ]

    async def _place(self, data: Path) -> None:
        """Become one of the nodes that share the app's partitions."""
        self.placement = placement = Placement(
            self.owners, home_of(data), self.config.standbys, lambda: self.gateway.waiting, self._stop
        )
        self._opened.push("the membership of this node", placement.close)
        await placement.join()

    def _ports(self, app_uuid: str, seal: Seal, outgoing: Outgoing, page: CrashMarker) -> Ports:
        return Ports(
            Transport(self.log, self.gateway, clock_ms, Random(), seal, record_rules(self.config)),
            TurnServices(
                self.registry,
                self._run_queue,
                self.tracing,
                self._object_quotas(),
                outgoing,
                after_crash=page.died,
            ),
            RecoveryServices(
                new_uuid,
                self.config.steps(),
                self._transfers,
                ReplayProgress(),
                page.charged,
                self._ingest,
            ),
            identity_of(self.name, self.config.name, app_uuid, self.registry),
            GatewayWatch(),
        )

    async def _ingest(self, tables: Tables) -> None:
        """Begin a partition that has no state with what others have made of it: a snapshot, or a helper's
        fold.
        """
        if self.snapshots is not None and not self._helpers.has(tables.partition):
            await self.snapshots.restoring.ingest(tables)
        await self._helpers.ingest(tables)

    def _object_quotas(self) -> ObjectQuotas | None:
        """The count of objects that each principal has created; None without access control."""
        quotas = self.config.quotas
        if not self.config.guarded:
            return None
        return ObjectQuotas(
            lambda principal: None if (quota := quota_of(quotas, principal)) is None else quota.objects
        )

    def _maintenance(self) -> Maintenance:
        keep_s = self.config.keep_commands_s
        keep_ms = None if keep_s is None else int(keep_s * 1000)
        return Maintenance(self.store, self.owners, clock_ms=clock_ms, keep_ms=keep_ms, failed=self._stop)

    async def _open_doors(self, outgoing: Outgoing) -> None:
        config, gateway, has_worker = self.config, self.gateway, self.worker is not None
        self._access = access = await access_for(config, self._opened, has_worker=has_worker)
        pages = pages_for(
            config,
            self.registry,
            gateway,
            self.owners,
            access=access,
            has_worker=has_worker,
            dev=self._dev,
            ready=self._ready,
            metrics=exposition(self.owners, gateway, lambda: door.answered, self.snapshots),
            snapshots=self.snapshots,
        )
        worker, logs = self._worker(outgoing), logs_requests(config, dev=self._dev)
        door = door_for(config, self.registry, gateway, pages=pages, worker=worker, access=access)
        self.asgi, self.http = door, protocol_for(door, self.sockets, access, logs=logs)
        watchdog = Watchdog(step_s=config.limits.step_s, hold_s=config.limits.hold_s)
        if watchdog.start():
            self._opened.push("the watchdog", watchdog.stop)

    def _worker(self, outgoing: Outgoing) -> Worker | None:
        if self.worker is None:
            return None
        return Worker(
            self.worker,
            self.registry.env,
            self.gateway,
            outgoing=outgoing,
            new_uuid=new_uuid,
            deadline_s=self.config.deadline_s,
            tracing=self.tracing,
        )

    async def _come_up(self) -> None:
        """Wait until each partition serves or has stopped; raises the reason if all of them stopped."""
        placement = self.placement
        while (
            any(owner.state in (OwnerState.NEW, OwnerState.BEGINNING) for owner in self.owners)
            if placement is None
            else not placement.settled
        ):
            if self.stopped.done():
                raise self.stopped.result()
            await asyncio.sleep(
                0.005
            )  # at the start only: an owner is ready in a few ms, or replays for seconds
        if placement is None or placement.alone:
            await self._transfers.close()  # releases the data directories of the other apps
        await self._helpers.close()
        whole = (OwnerState.SERVING, OwnerState.ELSEWHERE)
        broken = [owner.error for owner in self.owners if owner.state not in whole]
        for error in broken:
            # an error in the configuration stops the start, even if other partitions could serve
            if error is not None and (len(broken) == len(self.owners) or isinstance(error, ConfigError)):
                raise error
        served = {namespace: kind.cls.__name__ for namespace, kind in self.registry.types.items()}
        warn_of_the_unserved([owner.tables for owner in self.owners], served)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _task(self, coro: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coro)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stop(error)

    def begin_leaving(self) -> None:
        """The process ends soon: other nodes may take the partitions while requests finish here."""
        if self.placement is not None:
            self.placement.begin_leaving()

    def _stop(self, error: BaseException) -> None:
        """Stop the node after a failure: nothing is answered from here on, and the process should end."""
        if self.stopped.done():
            return
        self.stopped.set_result(error)
        for owner in self.owners:
            with self._opened.step(f"end the ownership of partition {owner.partition}"):
                owner.enter(OwnerState.STOPPED, error)
                owner.end_epoch()
        reason = error if isinstance(error, PerdureError) else StorageFailed(f"the node stopped: {error!r}")
        with self._opened.step("close the gateway"):
            self.gateway.close(reason)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await to_its_end(self._leave(drain=not self.stopped.done()))
        failure = self._opened.failure
        may_raise = error is None or isinstance(error, asyncio.CancelledError)
        if failure is not None and may_raise and not self.stopped.done():
            raise failure from None

    async def _leave(self, *, drain: bool) -> None:
        """End all tasks and close all parts, each even if another failed to close (`_opened.failure`)."""
        opened = self._opened
        if drain:
            if self.placement is not None:
                with opened.step("hand over the partitions"):
                    await self.placement.leave()
            with opened.step("let end what is under way"):
                await end_turns(self.owners)
            with opened.step("write the store out"):
                await self.maintenance.save()
        await opened.close()

    def _ready(self) -> Problem:
        return readiness(
            self.owners, self.log, lambda: not self.stopped.done() and self.gateway.closed is None
        )


def bounds_of(config: Config) -> PartitionBounds:
    """The bounds of an owner, from the limits of a configuration."""
    limits = config.limits
    return PartitionBounds(
        mailbox=limits.mailbox,
        backlog=limits.undone,
        charges=limits.charges,
        limits=TurnLimits(limits.key_bytes, limits.value_bytes, limits.turn_bytes),
    )
