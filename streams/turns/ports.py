"""What an owner is given and what it tells: its states, bounds, counts and ports."""

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
from perdure.schemas.journal import Entry
from perdure.schemas.migrations import Step
from perdure.schemas.replies import Reply
from perdure.schemas.seal import Seal
from perdure.streams.log.base import Log, Progress, silent
from perdure.streams.state.tables import Tables
from perdure.streams.turns.object_quotas import Makers
from perdure.streams.turns.pending_calls import Exchange
from perdure.streams.turns.run_queue import RunQueue
from perdure.streams.turns.tracing import Tracing

UNSEALED = Seal("")  # of an app without a secret: for tests and simulations


class OwnerState(StrEnum):
    NEW = "new"
    BEGINNING = "beginning"
    SERVING = "serving"
    FENCED = "fenced"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class PartitionBounds:
    """Limits of one partition; what lies over one is refused at the doors or waits on the log."""

    mailbox: int = 10_000
    undone: int = 1_000_000
    residents: int = 200_000
    stretch: int = 10_000  # so many done commands in a row are not read again at a start
    entry_bytes: int = 9 << 20
    charges: int = 3  # a command that was running so often when the process died is parked
    limits: TurnLimits = field(default_factory=TurnLimits)


@dataclass(slots=True)
class Counts:
    """Since the start of the process."""

    commands: int = 0
    entries: int = 0
    dones: int = 0
    dead: int = 0
    parked: int = 0
    runaways: int = 0
    claims: int = 0
    alarms_due: int = 0
    alarms_fired: int = 0
    alarms_failed: int = 0
    alarms_parked: int = 0
    evictions: int = 0
    oversized: int = 0


class Doors(Protocol):
    """The doors of this process, as an owner sees them."""

    def answer(self, reply_to: str, id_: str, reply: Reply, partition: int, offset: int) -> bool:
        """Hand over a reply; False if `reply_to` is no door of this process."""

    def frames(self, out: Out, partition: int, offset: int, n: int) -> bool:
        """Hand over a frame for WebSockets, let out as n-th by the entry at journal `offset`; False: it goes by log."""

    def holds(self, gateway: str) -> bool:
        """Is it this start of this process that holds the sockets of `gateway`?"""

    def stopped(self, partition: int, error: BaseException) -> None:
        """The partition has stopped for good: who waits for it here will hear nothing more of it."""


class Gateways(Protocol):
    """The watch over the gateways of other nodes, as the owners of this one see it."""

    def begin(self, ports: Ports, tables: Tables, gone: Notified) -> None:
        """A partition is served from now on; `gone` hears of its sockets whose gateway has ended."""

    def end(self, partition: int) -> None:
        """It is not served any more."""


class Notified(Protocol):
    """What appends the events of sockets that are gone."""

    def notify(self, key: str, id_: str, method: str) -> None: ...

    async def room(self) -> None:
        """Wait until there is room for more."""


class Arrivals(Protocol):
    """The objects of a class of another app that are to be ours; `script`: the app's name."""

    @property
    def script(self) -> str: ...

    def count(self, partition: int) -> int:
        """How many objects are for `partition`."""

    def entries(self, partition: int, but_for: Container[str] = ()) -> Iterator[Entry]:
        """The entries that make those of `partition` ours; none for the keys in `but_for`."""


class OtherApps(Protocol):
    """Where transferred classes come from, as an owner sees it."""

    async def check(self, step: Step, namespace: str) -> None:
        """Raises an `OperatorError` unless what this step brings is there. Nothing is claimed for it."""

    async def source(self, step: Step, namespace: str) -> Arrivals | None:
        """The objects that come to `namespace` in this step; None: nobody said where that app's data are. Raises as `check`."""


async def _by_itself(tables: Tables) -> None:
    """Nobody has folded anything for the owner."""


def _nobody(partition: int, end: int) -> Mapping[int, int]:
    return {}


@dataclass(frozen=True, slots=True)
class Ports:
    """What an owner is given: nothing else of the world reaches it.

    `node`, `host` and `pid` say who this is, in claims and in the log.
    `progress(partition, done, total)` hears of the journal records that an owner that begins has replayed.
    `charged(partition, end)` gives the offsets below `end` of commands that were running when the process died, and
    how often. `careful`: the process before this one died while a turn's code was running. `makers`: who made which
    object is counted, by these. `transfers`: where transferred classes come from. `ingest(tables)` takes in what a helper
    has folded of a partition that is built anew. `run_queue`: what all that shares the event loop waits in.
    `gateways`: the watch over those of other nodes; needed on a log that they share.
    """

    log: Log
    registry: Registry
    doors: Doors
    clock_ms: Callable[[], int]
    random: Random
    new_uuid: Callable[[], str]
    node: str = "node"
    app: str = "app"
    app_uuid: str = ""
    progress: Progress = silent
    seal: Seal = UNSEALED
    exchange: Exchange = field(default_factory=Exchange)
    migrations: tuple[Step, ...] = ()
    outside: Outside | None = None
    charged: Callable[[int, int], Mapping[int, int]] = _nobody
    tracing: Tracing | None = None
    careful: bool = False
    transfers: OtherApps | None = None
    makers: Makers | None = None
    ingest: Callable[[Tables], Awaitable[object]] = _by_itself
    host: str = ""
    pid: int = 0
    run_queue: RunQueue = field(default_factory=RunQueue)
    gateways: Gateways | None = None
