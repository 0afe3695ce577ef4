"""The order of measurements: which one is made when, and which rows exist already.

Laws
- Sides of one scenario follow each other within a round; each round begins with the next side.
- A side takes part in every n-th round (`Side.every`); a measurement without a comparison is made once.
- A row that exists is not made again.
- A side that fails is reported, kept out of that scenario's later rounds, and stops nothing else.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import extras, measure, pressure, report, systems
from bench.errors import BenchError
from bench.runs import Row, Runs
from bench.scenarios import SCENARIOS
from bench.sides import Perdure, Side

SHOWN = (
    *("per_s", "p50_ms", "cpu_us", "bytes_per_command", "syncs_per_request"),
    *("empty_mib", "object_bytes", "restart_s", "rebuild_per_s", "broadcast_ms"),
    *("limiter_p50_ms", "limiter32_per_s", "call_p50_ms", "calls_per_s"),
    *("alarms_per_s", "items_p50_ms", "edit_long_ms", "edit_ratio"),
    *("beside_hot_p99_ms", "beside_hot_sockets_p99_ms", "produced_per_s", "produce_ratio"),
)
BROADCASTS = 20
SYNCS_AT_MOST_S = 2.0
SYNCED = ("c1", "w32", "r32")  # the others differ from these in speed only


@dataclass(frozen=True)
class Plan:
    """The sizes of a benchmark: how often, how long, and how much."""

    rounds: int
    seconds: float
    scenarios: tuple[str, ...]
    objects: int  # on disk, for restart and rebuild
    resident: int  # in memory
    sockets: int
    alarms: int  # due at once


@dataclass
class Campaign:
    """A benchmark in progress: its plan, the rows made so far, and what failed."""

    plan: Plan
    runs: Runs
    work: Path
    sides: dict[str, Side]
    absent: dict[str, str] = field(default_factory=dict)

    def compare(self) -> None:
        """Every scenario on every side, in turns."""
        for round_, name, side in turns(self.plan.rounds, self.plan.scenarios, self.sides):
            alone = SCENARIOS[name].beside and not isinstance(self.sides[side], Perdure)
            if alone or round_ % self.sides[side].every:
                continue
            what = (self.sides[side], SCENARIOS[name], round_, self.plan.seconds, self.work)
            self._once("load", side, name, round_, functools.partial(measure.measure, *what))

    def syncs(self) -> None:
        """fsyncs per request, once for every side and some scenarios."""
        measure.strace_path()
        seconds = min(SYNCS_AT_MOST_S, self.plan.seconds)
        scenarios = [name for name in self.plan.scenarios if name in SYNCED]
        for _, name, side in turns(1, scenarios, self.sides):
            what = (self.sides[side], SCENARIOS[name], seconds, self.work)
            self._once("syncs", side, name, 0, functools.partial(measure.count_syncs, *what))

    def memory(self) -> None:
        """perdure's resident memory."""
        for side in self._perdures():
            make = functools.partial(extras.memory, side, self.plan.resident, self.work)
            self._once("memory", side.name, "memory", 0, make)

    def restart(self) -> None:
        """perdure's restart after SIGKILL, and its rebuild without the store."""
        for side in self._perdures():
            make = functools.partial(self._restart_then_rebuild, side)
            self._once("rebuild", side.name, "rebuild", 0, make)

    def _restart_then_rebuild(self, side: Perdure) -> Row:
        restart, rebuild = extras.comebacks(side, self.plan.objects, self.work)
        self.runs.add(restart)
        print(headline(restart), end="  ", flush=True)
        return rebuild

    def broadcast(self) -> None:
        """One socket's message to all the others, in turns."""
        rooms = [name for name in self.sides if name in extras.ROOMS]
        for round_, _, side in turns(self.plan.rounds, ("broadcast",), rooms):
            if round_ % self.sides[side].every:
                continue
            what = (self.sides[side], self.plan.sockets, BROADCASTS, round_, self.work)
            self._once("broadcast", side, "broadcast", round_, functools.partial(extras.broadcast, *what))

    def limiter(self) -> None:
        """The rate limiter's decisions."""
        self._systems("limiter", systems.limiter, self.plan.seconds)

    def calls(self) -> None:
        """One object that calls another."""
        self._systems("calls", systems.calls, self.plan.seconds)

    def alarms(self) -> None:
        """Many alarms due at once."""
        self._systems("alarms", systems.alarms, self.plan.alarms)

    def listing(self) -> None:
        """All values of an object with many keys."""
        self._systems("listing", systems.listing, self.plan.seconds)

    def edits(self) -> None:
        """An edit in a long document and in a short one."""
        self._systems("edits", systems.edits)

    def beside(self) -> None:
        """Reads of idle objects beside a hot one."""
        self._systems("beside", pressure.beside, self.plan.seconds)

    def produce(self) -> None:
        """Commands of one Kafka client, where there is a listener."""
        for side in self._perdures():
            if side.name != "perdure-kafka":
                make = functools.partial(pressure.produce, side, self.plan.seconds, 0, self.work)
                self._once("produce", side.name, "produce", 0, make)

    def _systems(self, name: str, make: Callable[..., Row], *size: float) -> None:
        for side in self._perdures():
            self._once(name, side.name, name, 0, functools.partial(make, side, *size, 0, self.work))

    def _once(self, kind: str, side: str, scenario: str, round_: int, make: Callable[[], Row]) -> None:
        """Make and keep a row unless it exists, with a line of progress."""
        what = f"{kind} {side}" if kind == scenario else f"{kind} {side} {scenario}"
        if what in self.absent or self.runs.has(kind, side, scenario, round_):
            return
        began = time.monotonic()
        print(f"round {round_ + 1} {kind:9} {scenario:9} {side:14} ", end="", flush=True)
        try:
            made = make()
        except BenchError as error:
            print("failed", flush=True)
            print(f"error: {what}: {error}", file=sys.stderr, flush=True)
            self.absent[what] = str(error)
            return
        self.runs.add(made)
        print(f"{headline(made)}  [{time.monotonic() - began:.0f} s]", flush=True)

    def _perdures(self) -> list[Perdure]:
        return [side for side in self.sides.values() if isinstance(side, Perdure)]


def turns(
    rounds: int, scenarios: Sequence[str], sides: Sequence[str] | dict[str, Side]
) -> Iterator[tuple[int, str, str]]:
    """Every (round, scenario, side); the sides' order rotates by one each round."""
    names = list(sides)
    for round_ in range(rounds):
        for scenario in scenarios:
            first = round_ % len(names) if names else 0
            for side in names[first:] + names[:first]:
                yield round_, scenario, side


def headline(row: Row) -> str:
    """The row's figures on one line."""
    return "  ".join(f"{name} {report.number(row[name])}" for name in SHOWN if row.get(name) is not None)
