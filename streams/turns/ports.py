"""What owners and turns get from their process, in groups by need, and an owner's states, bounds and counts.

An owner takes one `Ports`, and passes on only the groups that a part of it needs: `Transport` to all that
read or write records, `TurnServices` to the runner, `RecoveryServices` to the start, `Identity` to claims and
log lines.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Protocol

from perdure.objects.outgoing import Outside
from perdure.objects.overlay import TurnLimits
from perdure.objects.registry import Registry
from perdure.schemas.effects import Out
from perdure.schemas.foreign import NO_RULES, RecordRules
from perdure.schemas.journal import Entry
from perdure.schemas.migrations import Step
from perdure.schemas.replies import Reply
from perdure.schemas.seal import Seal
from perdure.streams.log.base import Log, Progress, silent
from perdure.streams.state.tables import Tables
from perdure.streams.turns.object_quotas import ObjectQuotas
from perdure.streams.turns.pending_calls import PendingCalls
from perdure.streams.turns.run_queue import RunQueue
from perdure.streams.turns.tracing import Tracing

UNSEALED = Seal("")  # of an app without a secret: for tests and simulations


class OwnerState(StrEnum):
    """The state of a partition's owner, as `/readyz`, metrics and administration show it."""

    NEW = "new"
    BEGINNING = "beginning"
    SERVING = "serving"
    FENCED = "fenced"
    ELSEWHERE = "elsewhere"  # another node serves the partition, or is to
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class PartitionBounds:
    """Limits of one partition; commands beyond one are refused by the gateway or wait on the log."""

    mailbox: int = 10_000
    backlog: int = 1_000_000
    activations: int = 200_000
    stretch: int = 10_000  # so many done commands in a row are not read again at a start
    entry_bytes: int = 9 << 20
    charges: int = 3  # a command that was running so often when the process died is parked
    limits: TurnLimits = field(default_factory=TurnLimits)


@dataclass(slots=True)
class Counts:
    """Counters of one owner since the start of the process."""

    commands: int = 0
    entries: int = 0
    dones: int = 0
    dead: int = 0
    forwarded: int = 0
    parked: int = 0
    runaways: int = 0
    claims: int = 0
    alarms_due: int = 0
    alarms_fired: int = 0
    alarms_failed: int = 0
    alarms_parked: int = 0
    evictions: int = 0
    oversized: int = 0


class Ingress(Protocol):
    """The gateway of this process, as an owner sees it."""

    def answer(self, reply_to: str, id_: str, reply: Reply, partition: int, offset: int) -> bool:
        """Hand over a reply; False if `reply_to` is not this process's gateway.

        Args:
            reply_to: the reply address in the command.
            id_: the command's id.
            reply: the reply.
            partition, offset: where the command lies on the log.
        """

    def frames(self, out: Out, partition: int, offset: int, n: int) -> bool:
        """Hand over a frame for WebSockets; False if it must take the log.

        Args:
            out: the frame, as the entry's outbox has it.
            partition: the partition of the entry.
            offset: the entry's journal offset.
            n: its number in the outbox, from 1 on.
        """

    def holds(self, gateway: str) -> bool:
        """True if this process, since its start, holds the sockets of `gateway`."""

    def stopped(self, partition: int, error: BaseException) -> None:
        """Fail the requests that wait for a partition that has stopped for good."""


class RemoteGateways(Protocol):
    """The watch over the gateways of other nodes, as the owners of this one see it."""

    def begin(self, transport: Transport, registry: Registry, tables: Tables, gone: SocketNotifier) -> None:
        """Watch a partition that is served from now on.

        Args:
            transport: the log and the clock of its owner.
            registry: the app's classes.
            tables: its tables, which have the sockets.
            gone: receives its sockets whose gateway has ended.
        """

    def end(self, partition: int) -> None:
        """Stop watching a partition."""


class SocketNotifier(Protocol):
    """Appends the events of sockets that are gone."""

    def notify(self, key: str, id_: str, method: str) -> None: ...

    async def room(self) -> None:
        """Wait until there is room for more."""


class TransferSource(Protocol):
    """The objects of another app's class that a migration transfers; `script`: that app's name."""

    @property
    def script(self) -> str: ...

    def count(self, partition: int) -> int:
        """Return the number of objects for `partition`."""

    def entries(self, partition: int, but_for: Container[str] = ()) -> Iterator[Entry]:
        """Yield the entries that import the objects of `partition`, except the keys in `but_for`."""


class TransferSources(Protocol):
    """The data of the apps from which classes are transferred, as an owner sees them."""

    async def check(self, step: Step, namespace: str) -> None:
        """Raises an `OperatorError` unless the data for this step are available. No
        partition is claimed for it.
        """

    async def source(self, step: Step, namespace: str) -> TransferSource | None:
        """Return the objects that this step transfers to `namespace`; None: that app's data are not
        configured. Raises as `check`.
        """


async def _nothing_to_ingest(tables: Tables) -> None:
    """No worker folded anything."""


def _no_crash(partition: int, end: int) -> Mapping[int, int]:
    return {}


@dataclass(frozen=True, slots=True)
class Identity:
    """The names of this process: in claims, in the addresses of calls and in log lines."""

    node: str = "node"
    app: str = "app"
    app_uuid: str = ""
    host: str = ""
    pid: int = 0
    code: str = ""  # the version of the app's code


@dataclass(frozen=True, slots=True)
class Transport:
    """The means to send and answer commands: the log, and what stamps, signs and receives its records.

    `ingress` and `pending_calls` are the two places in this process where replies are awaited: those of
    clients, and those of turns that called other objects.
    """

    log: Log
    ingress: Ingress
    clock_ms: Callable[[], int]
    random: Random
    seal: Seal = UNSEALED
    rules: RecordRules = NO_RULES
    pending_calls: PendingCalls = field(default_factory=PendingCalls)


@dataclass(frozen=True, slots=True)
class TurnServices:
    """The services for turns: the app's classes, the node's run queue, and what observes turns.

    `object_quotas`: counts the objects that each principal created; None: they are not counted. `outside`:
    serves `perdure.fetch`. `after_crash`: the previous process died while it ran a turn's code.
    """

    registry: Registry
    run_queue: RunQueue = field(default_factory=RunQueue)
    tracing: Tracing | None = None
    object_quotas: ObjectQuotas | None = None
    outside: Outside | None = None
    after_crash: bool = False


@dataclass(frozen=True, slots=True)
class RecoveryServices:
    """The services for recovery, which an owner needs only while it begins.

    `progress(partition, done, total)` is called with the number of journal records replayed so far.
    `crash_counts(partition, end)` returns the offsets below `end` of commands during which the process died,
    and how often. `ingest(tables)` waits for the worker that folds this partition from scratch and takes over
    its result. `foreign_apps`: where the objects of transferred classes are read; needed if a migration
    transfers one.
    """

    new_uuid: Callable[[], str]
    migrations: tuple[Step, ...] = ()
    foreign_apps: TransferSources | None = None
    progress: Progress = silent
    crash_counts: Callable[[int, int], Mapping[int, int]] = _no_crash
    ingest: Callable[[Tables], Awaitable[object]] = _nothing_to_ingest


@dataclass(frozen=True, slots=True)
class Ports:
    """The services that an owner gets from its process. It passes on each group
    only to the parts that need it.

    `remote_gateways` watches the gateways of other nodes: needed on a log that nodes share.
    """

    transport: Transport
    turns: TurnServices
    recovery: RecoveryServices
    identity: Identity = field(default_factory=Identity)
    remote_gateways: RemoteGateways | None = None
