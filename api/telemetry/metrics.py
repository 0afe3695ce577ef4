"""The page /metrics, in Prometheus' text format.

Everything is counted where it happens, as plain numbers, so that counting costs a command next to nothing;
this module only reads the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, cast

from perdure.api.gateway import Gateway
from perdure.streams.opening import clock_ms
from perdure.streams.owner.owner import Owner
from perdure.streams.snapshots.service import Snapshots
from perdure.streams.turns.ports import OwnerState

if TYPE_CHECKING:  # imported by the first scrape, since it brings an HTTP server and client
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

_COUNTS = {
    "commands": "Commands taken from the log",
    "entries": "Turns that ended with a journal entry",
    "dones": "Commands that ended without one (reads, expired, duplicates)",
    "dead": "Records that were not commands",
    "forwarded": "Commands produced into this partition whose home is another, and sent there",
    "parked": "Commands given up because the process died each time they ran",
    "runaways": "Turns interrupted because their handler did not await",
    "claims": "Claims of the partition by this node",
    "alarms_due": "Commands appended for alarms that came due",
    "alarms_fired": "Runs of alarms that succeeded",
    "alarms_failed": "Runs of alarms that failed, each retry counted",
    "alarms_parked": "Alarms given up after their last retry",
    "evictions": "Objects that left memory",
    "oversized": "Objects that took too much memory",
}


_SNAPSHOTS = {
    "snapshot_bytes": "Size of the newest snapshot at its place",
    "snapshot_seconds": "How long the newest snapshot took",
}
_SNAPSHOT_COUNTS = {
    "snapshots": ("taken", "Snapshots taken by this node"),
    "snapshot_failures": ("failed", "Snapshots that could not be taken"),
    "snapshot_sent_bytes": ("bytes_sent", "Bytes sent for snapshots"),
    "snapshot_verify_failures": ("verify_failed", "Snapshots that a replay did not bear out"),
}


class _Snapshots:
    """A collector of prometheus_client: the snapshots of the partitions that this node serves."""

    def __init__(self, owners: Sequence[Owner], snapshots: Snapshots) -> None:
        self._owners = owners
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        served = [each.partition for each in self._owners if each.state is OwnerState.SERVING]
        counts = {str(partition): self._snapshots.counts_of(partition) for partition in served}
        now_ms = clock_ms()
        for name, what, text in (
            ("snapshot_age_seconds", "taken_ms", "Age of the newest good snapshot"),
            ("snapshot_verified_age_seconds", "verified_ms", "Age of the newest verified snapshot"),
        ):
            family = GaugeMetricFamily(f"perdure_{name}", text, labels=["partition"])
            for partition, each in counts.items():
                if (time_ms := getattr(each, what)) is not None:
                    family.add_metric([partition], max(now_ms - time_ms, 0) / 1000)
            yield family
        for name, text in _SNAPSHOTS.items():
            family = GaugeMetricFamily(f"perdure_{name}", text, labels=["partition"])
            for partition, each in counts.items():
                family.add_metric([partition], getattr(each, name.removeprefix("snapshot_")))
            yield family
        for name, (what, text) in _SNAPSHOT_COUNTS.items():
            counter = CounterMetricFamily(f"perdure_{name}", text, labels=["partition"])
            for partition, each in counts.items():
                counter.add_metric([partition], getattr(each, what))
            yield counter
        every_s = self._snapshots.settings.every_s
        yield GaugeMetricFamily("perdure_snapshot_interval_seconds", "`snapshots.every`", every_s)


class _Node:
    """A collector of prometheus_client."""

    def __init__(
        self, owners: Sequence[Owner], gateway: Gateway, answered: Callable[[], dict[int, int]]
    ) -> None:
        self._owners = owners
        self._gateway = gateway
        self._answered = answered

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, text in _COUNTS.items():
            family = CounterMetricFamily(f"perdure_{name}", text, labels=["partition"])
            for owner in self._owners:
                family.add_metric([str(owner.partition)], getattr(owner.counts, name))
            yield family
        voids = CounterMetricFamily(
            "perdure_voids", "Void journal records met after a take-over", labels=["partition"]
        )
        for owner in self._owners:
            voids.add_metric([str(owner.partition)], owner.tables.reader.void)
        yield voids
        clocks = CounterMetricFamily(
            "perdure_log_time_corrected",
            "Stamps far ahead of this node's clock, and steps back of log time",
            labels=["partition"],
        )
        for owner in self._owners:
            clocks.add_metric([str(owner.partition)], owner.time.corrected)
        yield clocks
        yield self._gauge(
            "serving", "1 if this node serves the partition", lambda o: o.state is OwnerState.SERVING
        )
        yield self._gauge(
            "blocked",
            "1 if an open transaction blocks the partition",
            lambda o: bool(o.tail and o.tail.blocked),
        )
        yield self._gauge("undone_commands", "Commands read and not done", lambda o: o.backlog)
        yield self._gauge("resident_objects", "Objects in memory", lambda o: len(o.turns.activations))
        yield self._gauge(
            "resident_bytes", "Memory that objects take, estimated", lambda o: o.turns.resident_bytes
        )
        yield self._gauge("watermark", "Below this command offset all is done", lambda o: o.tables.done.mark)
        yield self._gauge("applied_offset", "Journal offset folded up to", lambda o: o.tables.reader.offset)
        yield GaugeMetricFamily("perdure_waiting", "Requests waiting for an answer", self._gateway.waiting)
        sockets = 0 if self._gateway.sockets is None else self._gateway.sockets.count
        yield GaugeMetricFamily("perdure_websockets", "WebSockets open", sockets)
        requests = CounterMetricFamily("perdure_http_requests", "HTTP requests answered", labels=["status"])
        for status, count in sorted(self._answered().items()):
            requests.add_metric([str(status)], count)
        yield requests

    def _gauge(self, name: str, text: str, read: Callable[[Owner], float]) -> GaugeMetricFamily:
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(f"perdure_{name}", text, labels=["partition"])
        for owner in self._owners:
            family.add_metric([str(owner.partition)], float(read(owner)))
        return family


def exposition(
    owners: Sequence[Owner],
    gateway: Gateway,
    answered: Callable[[], dict[int, int]],
    snapshots: Snapshots | None = None,
) -> Callable[[], bytes]:
    """A function that returns the current text of /metrics.

    Args:
        owners: this node's owners, in order.
        gateway: its gateway.
        answered: returns the number of HTTP responses by status.
        snapshots: its snapshots; None if they are not configured.
    """

    @cache
    def registry() -> CollectorRegistry:
        from prometheus_client import CollectorRegistry, ProcessCollector

        made = CollectorRegistry(auto_describe=False)
        made.register(cast("Collector", _Node(owners, gateway, answered)))
        if snapshots is not None:
            made.register(cast("Collector", _Snapshots(owners, snapshots)))
        ProcessCollector(registry=made)
        return made

    def text() -> bytes:
        from prometheus_client import generate_latest

        return generate_latest(registry())

    return text
