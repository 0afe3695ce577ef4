"""Eviction: how long objects stay in memory.

An `Evictor` sweeps the objects of all partitions of a node once a second. It evicts objects that are idle,
that are too large, and, if memory is short, those that were used longest ago.

Laws [test_eviction.py]
- Eviction removes memory only: attributes, never state. An object that is busy, or
  has unacknowledged writes, stays.
- The object used longest ago goes first. There is no timer and no clock per object:
  the log time of its last turn counts.
- A busy object that a sweep meets moves to the end of the order. However many objects are busy for long, they
  do not hide an idle one behind them, and none is visited twice before the others.
- A sweep runs in steps of a few ms, between which the event loop continues.
- An object over `object_bytes` loses its instance after the running turn, with a line in the log.
- Sizes are estimates: a bounded walk over a few instances a second.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol, Self

import structlog

from perdure.objects.durable import Env
from perdure.objects.state import State
from perdure.schemas.config_model import Limits
from perdure.streams.turns.activation import Activation
from perdure.streams.turns.ports import Counts

SWEEP_EVERY_S = 1.0
LOOKED_AT = 2000  # activations per step of a sweep, so that a step takes a few ms at most
PASSED_OVER = 16  # objects at work, to make room for one
LEAST_EVICTED = 100  # per sweep, while memory is short
MEASURED = 32  # activations per node and sweep
SAMPLED = 100  # elements of a container that are measured; the others count as their mean
DEPTH = 6
VISITED = 2000  # values per object
_NOT_ITS_OWN = (State, Env, type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
_logger = structlog.get_logger(__name__)


class ActivationHolder(Protocol):
    """The turns of a partition, as far as eviction needs them."""

    activations: OrderedDict[str, Activation]
    resident_bytes: int

    def evict(self, activation: Activation) -> None: ...

    def instance_gone(self, activation: Activation) -> None: ...


class Evicting(Protocol):
    """An owner, as far as eviction needs it."""

    @property
    def turns(self) -> ActivationHolder: ...

    @property
    def counts(self) -> Counts: ...


class Evictor:
    """The eviction of a node's objects.

    owners: the owners of its partitions.
    clock_ms: the wall clock, in ms since 1970.
    idle_s: the time in seconds after which an idle object is evicted.
    object_bytes: the estimate of what an object takes beside its values.
    memory_bytes: the bound of the process's memory; 0 for half of the machine's.
    rss_bytes: returns the process's memory, 0 if it is unknown; None for the system's figure.
    """

    def __init__(
        self,
        owners: Sequence[Evicting],
        *,
        clock_ms: Callable[[], int],
        idle_s: float,
        object_bytes: int,
        memory_bytes: int = 0,
        rss_bytes: Callable[[], int] | None = None,
    ) -> None:
        self._owners = owners
        self._clock_ms = clock_ms
        self._idle_ms = int(idle_s * 1000)
        self._object_bytes = object_bytes
        self._memory_bytes = memory_bytes or half_of_memory()
        self._rss_bytes = rss_bytes or process_bytes
        self._full = False

    @classmethod
    def of(cls, owners: Sequence[Evicting], limits: Limits, clock_ms: Callable[[], int]) -> Self:
        """Make one from the configuration."""
        return cls(
            owners,
            clock_ms=clock_ms,
            idle_s=limits.idle_s,
            object_bytes=limits.object_bytes,
            memory_bytes=limits.memory_bytes,
        )

    async def keep(self) -> None:
        """Sweep once a second until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            for _ in self.steps():
                await asyncio.sleep(0)

    def sweep(self) -> None:
        """Run one round: evict objects that are idle, too large, or, if memory is short, used longest ago."""
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[None]:
        """Run one round in steps, between which other work may run."""
        before_ms = self._clock_ms() - self._idle_ms
        for owner in self._owners:
            yield from _evict(owner.turns, len(owner.turns.activations), before_ms)
            self._measure(owner)
            yield
        full = self._rss_bytes() > self._memory_bytes
        if full:
            if not self._full:
                _logger.warning("memory is short: objects are evicted", memory_bytes=self._memory_bytes)
            least = -(-LEAST_EVICTED // len(self._owners))
            for owner in self._owners:  # keys are hashed, so a tenth of each is a tenth of all
                yield from _evict(owner.turns, max(len(owner.turns.activations) // 10, least))
        self._full = full

    def _measure(self, owner: Evicting) -> None:
        turns, sizes = owner.turns, []
        some = islice(reversed(turns.activations.values()), max(MEASURED // len(self._owners), 1))
        for activation in list(some):
            size_bytes = estimated_bytes(activation)
            sizes.append(size_bytes)
            if size_bytes > self._object_bytes:
                owner.counts.oversized += 1
                _logger.warning(
                    "object is too large to stay in memory",
                    object=activation.key,
                    size_bytes=size_bytes,
                    object_bytes=self._object_bytes,
                )
                drop(turns, activation)
        turns.resident_bytes = sum(sizes) * len(turns.activations) // len(sizes) if sizes else 0


def drop(turns: ActivationHolder, activation: Activation) -> None:
    """Evict it; one at work ends its turn and begins the next without what it had in memory."""
    if activation.idle:
        turns.evict(activation)
    else:
        turns.instance_gone(activation)
        activation.cache.clear()


def _evict(turns: ActivationHolder, most: int, used_before_ms: int | None = None) -> Iterator[None]:
    """Evict up to `most` idle activations, the one used longest ago first; stop at
    one used later than that.
    """
    activations = turns.activations
    for looked_at in range(1, len(activations) + 1):
        activation = next(iter(activations.values()), None)
        if activation is None or not most:
            return
        if not activation.idle:
            activations.move_to_end(activation.key)
        elif used_before_ms is not None and activation.state.used_ms > used_before_ms:
            return
        else:
            turns.evict(activation)
            most -= 1
        if looked_at % LOOKED_AT == 0:
            yield


def oldest_idle(activations: OrderedDict[str, Activation], kept: Activation) -> Activation | None:
    """The idle activation that was used longest ago, but not `kept`; None if all
    that were looked at are at work.
    """
    for _ in range(PASSED_OVER):
        activation = next(iter(activations.values()))
        if activation is kept:
            return None
        if activation.idle:
            return activation
        activations.move_to_end(activation.key)
    return None


# Sizes


def estimated_bytes(activation: Activation) -> int:
    """About how much memory an object takes: its instance, and what is cached of its state."""
    size_bytes = sys.getsizeof(activation) + sum(
        200 + len(value or b"") for value in activation.cache.values()
    )
    if activation.instance is not None:
        size_bytes += _Walk().size(vars(activation.instance), DEPTH)
    return size_bytes


class _Walk:
    """Adds up what hangs on a value, each once, `VISITED` values at most."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def size(self, value: Any, depth: int) -> int:
        """Bytes of `value` and what it holds, as far as it is looked at."""
        with suppress(Exception):  # a user's class may do anything when it is looked at
            return self._size(value, depth)
        return 0

    def _size(self, value: Any, depth: int) -> int:
        if id(value) in self._seen or isinstance(value, _NOT_ITS_OWN):
            return 0
        self._seen.add(id(value))
        size = sys.getsizeof(value, 64)
        if not depth or len(self._seen) > VISITED:
            return size
        if isinstance(value, dict):
            return size + self._held(len(value), (part for item in value.items() for part in item), depth, 2)
        if isinstance(value, (list, tuple, set, frozenset, deque)):
            return size + self._held(len(value), value, depth, 1)
        if hasattr(value, "__dict__"):
            return size + self.size(vars(value), depth)
        return size

    def _held(self, count: int, parts: Iterable[Any], depth: int, each: int) -> int:
        looked_at = min(count, SAMPLED)
        size = sum(self.size(part, depth - 1) for part in islice(parts, looked_at * each))
        return size * count // looked_at if looked_at else 0


def process_bytes() -> int:
    """Return the resident memory of the process in bytes; 0 where /proc does not exist."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def half_of_memory() -> int:
    """Return half of the machine's memory, or of the control group's limit, in bytes."""
    allowed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        text = ""
    return (min(allowed, int(text)) if text.isdigit() else allowed) // 2
