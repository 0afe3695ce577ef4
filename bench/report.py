"""The runs as a page: ratios first, then figures, then everything needed to judge them.

Laws
- A value here is a median with its least and greatest run; no run is left out.
- The clock and the machine's facts are given; the same rows make the same page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bench.ratios import Spread, by_round, paired, spread
from bench.runs import Row, Runs
from bench.scenarios import BUDGETS, SCENARIOS, Budget

OTHERS = ("limit", "limit-kafka", "workerd", "restate", "build")
EXTRA_METRICS = {
    "empty_mib": ("memory", "memory empty, MiB"),
    "object_bytes": ("memory", "memory per resident idle object, bytes (read after a restart)"),
    "written_object_bytes": ("memory", "memory per object written, bytes (caches and tables included)"),
    "restart_s": ("restart", "after SIGKILL under writes until ready, s"),
    "snapshot_start_s": ("restart", "from a snapshot, without a store, until ready, s"),
    "snapshot_take_s": ("restart", "snapshots of all partitions while it serves, s"),
    "rebuild_per_s": ("rebuild", "rebuild with the store deleted, entries/s (start of the process included)"),
    "limit_rebuild_per_s": (
        "rebuild",
        "the smallest loop that rebuilds from the same log, in one process, entries/s (the same)",
    ),
    "rebuild_ratio": ("rebuild", "that loop's time for the whole log divided by perdure's"),
    "broadcast_ms": ("broadcast", "a message stored, then sent to all sockets of a room, p50, ms"),
    "limiter_p50_ms": ("limiter", "rate limiter's decision, 1 client, p50, ms"),
    "limiter_p99_ms": ("limiter", "rate limiter's decision, 1 client, p99, ms"),
    "limiter_per_s": ("limiter", "rate limiter's decisions/s, 1 client"),
    "limiter32_p50_ms": ("limiter", "rate limiter's decision, 32 clients, p50, ms"),
    "limiter32_p99_ms": ("limiter", "rate limiter's decision, 32 clients, p99, ms"),
    "limiter32_per_s": ("limiter", "rate limiter's decisions/s, 32 clients"),
    "call_p50_ms": ("calls", "fetch that awaits a call to another object, which writes, 1 client, p50, ms"),
    "call_p99_ms": ("calls", "the same, p99, ms"),
    "calls_per_s": ("calls", "such fetches/s, 32 clients"),
    "alarms_s": ("alarms", "alarms due at once, until the last has run, s"),
    "alarms_per_s": ("alarms", "alarms/s"),
    "items_p50_ms": ("listing", "`items()` of all an object's values, 1 client, p50, ms"),
    "items_p99_ms": ("listing", "the same, p99, ms"),
    "edit_long_ms": ("edits", "an edit's round trip in a document with many edits, p50, ms"),
    "edit_short_ms": ("edits", "the same in one that began with 10, p50, ms"),
    "edit_ratio": ("edits", "the first divided by the second"),
    "beside_alone_p99_ms": ("beside", "read of an idle object by 8 clients, nothing beside it, p99, ms"),
    "beside_hot_p50_ms": ("beside", "the same beside 500 requests/s of 20 ms each to one object, p50, ms"),
    "beside_hot_p99_ms": ("beside", "the same, p99, ms"),
    "beside_hot_sockets_p99_ms": ("beside", "the same while 200 sockets send at full speed, p99, ms"),
    "beside_hot_turns_p99": (
        "beside",
        "turns of the hot object from one of a client's reads to its next, p99",
    ),
    "beside_hot_sockets_turns_p99": ("beside", "the same with the sockets, p99"),
    "produced_per_s": (
        "produce",
        "commands/s done of one librdkafka producer, on the embedded log's listener",
    ),
    "produce_ratio": ("produce", "that divided by the writes/s of 32 HTTP clients on the same server"),
    "produced_cpu_us": ("produce", "processor time of the server per produced command, µs"),
    "http_cpu_us": ("produce", "the same per write over HTTP, µs"),
}
BESIDE = ("per_s", "p99_ms", "cpu_us")
SIZES = ("sockets", "entries", "objects", "alarms", "keys", "edits")


FURTHER = """\
Medians (least-greatest). A user of the limiter never reaches the quota, so each decision is a durable write. A call
and its caller lie in different partitions. Memory is measured with `limits.idle_s` at an hour, so that nothing leaves
it meanwhile."""

RULES = """\
The load is wrk with one thread on the same machine. Each run is a fresh server on a fresh directory, warmed by one
write to every object and then by 32 clients that write at random; sides take turns within a round and each round
begins with the next side. Restate and perdure on Kafka, which start slowly, take part in every third round. A file's bytes are the smaller of its length and its blocks.

The rule of the sum: all counters are read by GET after the load; acknowledged <= sum <= acknowledged + cut, where
acknowledged are the 2xx answers that wrk counted and cut is one request per client and run of wrk, those in flight
when its time ran out. A run outside the rule, or with any other answer, is not a result: that side is left out of that
scenario, as listed above."""


RATIOS = """\
perdure divided by the other side in the same round: median (least-greatest). For `c1`, a latency, less is better;
for the rates more is."""

FIGURES = """\
Medians (least-greatest). Processor time is of the server's processes (SDK and broker included), per request.
fsyncs are fsync and fdatasync calls per request, from a run of its own under strace. The last column is the
counters' sum less the acknowledged writes, least and greatest (the rule is below)."""

FIGURE_HEAD = (
    "side",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "CPU µs",
    "fsyncs",
    "bytes/command",
    "sum - acknowledged",
)


@dataclass(frozen=True)
class Page:
    """The facts that the report shows beside the runs."""

    at: datetime
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    settings: Mapping[str, str]
    absent: Mapping[str, str]  # a side or measurement that was left out, and why


def number(value: float) -> str:
    """Three digits that count; thousands separated."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def span(seen: Spread | None) -> str:
    if seen is None:
        return "-"
    if seen.count == 1:
        return f"{number(seen.median)}"
    return f"{number(seen.median)} ({number(seen.least)}-{number(seen.greatest)})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def compared(runs: Runs, scenario: str, side: str, other: str, metric: str) -> Spread | None:
    """The side's metric divided by the other's, by round."""
    ours = by_round(runs.of("load", side, scenario), metric)
    return paired(ours, by_round(runs.of("load", other, scenario), metric))


def budget_value(runs: Runs, budget: Budget) -> Spread | None:
    """What the budget bounds: a metric, or its ratio to another side's."""
    scenario = SCENARIOS.get(budget.measure)
    kind = "load" if scenario else EXTRA_METRICS[budget.measure][0]
    metric = scenario.metric if scenario else budget.measure
    name = scenario.name if scenario else kind
    ours = by_round(runs.of(kind, budget.side, name), metric)
    if budget.against is None:
        return spread(list(ours.values()))
    return paired(ours, by_round(runs.of(kind, budget.against, name), metric))


def _ratio_section(runs: Runs) -> list[str]:
    rows = []
    for side in ("perdure", "perdure-kafka"):
        for scenario in SCENARIOS.values():
            ratios = [span(compared(runs, scenario.name, side, other, scenario.metric)) for other in OTHERS]
            cpu = span(compared(runs, scenario.name, side, "limit", "cpu_us"))
            if set(ratios) != {"-"}:
                rows.append([side, f"`{scenario.name}` {scenario.says}", *ratios, cpu])
    text = ["## Ratios", "", *RATIOS.splitlines(), ""]
    if not rows:
        return [*text, "No round has perdure beside another side yet.", ""]
    head = ["", "", *[f"÷ {other}" for other in OTHERS], "processor time per request ÷ limit"]
    return text + table(head, rows)


def beside(runs: Runs, side: str, scenario: str, metric: str) -> Spread | None:
    """A side's metric in a scenario divided by its own in the scenario that
    this is compared with, by round.
    """
    ours = by_round(runs.of("load", side, scenario), metric)
    return paired(ours, by_round(runs.of("load", side, SCENARIOS[scenario].beside), metric))


def _beside_section(runs: Runs) -> list[str]:
    rows = []
    for scenario in SCENARIOS.values():
        for side in ("perdure", "build", "perdure-kafka"):
            if scenario.beside and beside(runs, side, scenario.name, "per_s") is not None:
                name = f"`{scenario.name}` {scenario.says}"
                cells = [span(beside(runs, side, scenario.name, each)) for each in BESIDE]
                rows.append([name, side, f"`{scenario.beside}`", *cells])
    head = ["", "side", "divided by its own", "requests/s", "p99", "CPU per request"]
    return ["## Beside itself", "", *table(head, rows)] if rows else []


def _budget_section(runs: Runs) -> list[str]:
    rows = []
    for budget in BUDGETS:
        seen = budget_value(runs, budget)
        if seen is None:
            continue
        says = (
            SCENARIOS[budget.measure].says
            if budget.measure in SCENARIOS
            else EXTRA_METRICS[budget.measure][1]
        )
        unit = f" of {budget.against}" if budget.against else ""
        bound = f"{'≤' if budget.at_most else '≥'} {budget.bound:,g}{unit}"
        rows.append(
            [budget.side, says, bound, span(seen), "met" if budget.met(seen.median) else "**missed**"]
        )
    return ["## Budgets", "", *table(["", "", "budget", "measured", ""], rows)] if rows else []


def _figures_section(runs: Runs) -> list[str]:
    text = ["## Figures", "", *FIGURES.splitlines(), ""]
    for scenario in SCENARIOS.values():
        rows = []
        for side in ("perdure", *OTHERS, "perdure-kafka"):
            seen = runs.of("load", side, scenario.name)
            if not seen:
                continue
            cells = [
                span(spread(list(by_round(seen, metric).values())))
                for metric in ("per_s", "p50_ms", "p99_ms", "cpu_us")
            ]
            syncs = by_round(runs.of("syncs", side, scenario.name), "syncs_per_request")
            size = span(spread(list(by_round(seen, "bytes_per_command").values())))
            rows.append([side, *cells, span(spread(list(syncs.values()))), size, _excess(seen)])
        if rows:
            text += [f"### `{scenario.name}`: {scenario.says}", "", *table(FIGURE_HEAD, rows)]
    return text


def _excess(rows: Sequence[Row]) -> str:
    over = [int(row["sum"]) - int(row["acknowledged"]) for row in rows]
    return f"{min(over)} to {max(over)}"


def _extra_section(runs: Runs) -> list[str]:
    rows = []
    for metric, (kind, says) in EXTRA_METRICS.items():
        for side in ("perdure", "perdure-kafka", "workerd"):
            seen = runs.of(kind, side)
            values = list(by_round(seen, metric).values())
            if values:
                size = next((f"{seen[0][n]:,} {n}" for n in SIZES if n in seen[0]), "")
                rows.append([says, side, size, span(spread(values))])
    text = ["## Further", "", *FURTHER.splitlines(), ""]
    return text + table(["", "side", "size", "measured"], rows) if rows else []


def _facts_section(runs: Runs, page: Page) -> list[str]:
    text = ["## How", ""]
    text += [f"- {name}: {fact}" for name, fact in page.machine.items()]
    text += [f"- {name}: {runs.settings[name]}" for name in sorted(runs.settings)]
    text += ["", "| side | versions | settings |", "|---|---|---|"]
    text += [f"| {side} | {page.versions[side]} | {page.settings[side]} |" for side in page.versions]
    text += ["", *[f"- Left out: {name}: {why.splitlines()[0]}" for name, why in page.absent.items()], ""]
    return [*text, *RULES.splitlines(), ""]


def render(runs: Runs, page: Page) -> str:
    """The whole page as Markdown."""
    rounds = len({int(row["round"]) for row in runs.of("load")})
    text = ["# Benchmark", "", f"{page.at:%Y-%m-%d %H:%M} UTC, {rounds} round{'s' * (rounds != 1)}.", ""]
    for section in (_ratio_section, _beside_section, _budget_section, _figures_section, _extra_section):
        text += section(runs)
    return "\n".join(text + _facts_section(runs, page))
