"""The benchmark's own arithmetic: parsing, pairing, resuming, judging."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bench import report
from bench.__main__ import MEASUREMENTS
from bench.campaign import Campaign, Plan, turns
from bench.errors import BenchError
from bench.extras import summed
from bench.growth import Cost, cost, order
from bench.growth_cases import CASES, Case
from bench.load import Load, parse
from bench.machine import descendants, disk_bytes, parse_stat
from bench.measure import check_exact, requested
from bench.ratios import Spread, by_round, paired, spread
from bench.runs import Row, Runs, fingerprint
from bench.scenarios import SCENARIOS, Budget, Scenario
from bench.servers import count_sync_calls
from bench.sides import SIDES, Build, Perdure, Side
from bench.way import entries, returns, trace

WRK = """Running 2s test @ http://127.0.0.1:9000
  1 threads and 32 connections
Requests/sec:  123.45

{"requests":2010,"duration_us":2000000,"p50_us":390,"p99_us":1200,"refused":%d,"connect":0,"read":0,"write":0,"timeout":0}
"""
SETTINGS: Row = {"seconds": 2.0, "code": "abc"}
PLAN = Plan(rounds=4, seconds=1.5, scenarios=("c1",), objects=0, resident=0, sockets=0, alarms=0)


def row(side: str, round_: int, **figures: float) -> Row:
    return {"kind": "load", "side": side, "scenario": "w32", "round": round_, **figures}


def test_wrk_output_is_read_from_its_json_line() -> None:
    """Rates and latencies come from the script's line, in answers a second and milliseconds."""
    assert parse(WRK % 0) == Load(2010, 1005.0, 0.39, 1.2, {})


def test_refused_requests_are_not_answered() -> None:
    """An answer that is not 2xx counts neither as answered nor in the rate, and the run is not clean."""
    load = parse(WRK % 10)
    assert (load.answered, load.per_s, load.errors, load.clean) == (2000, 1000.0, {"refused": 10}, False)


@pytest.mark.parametrize("output", ["", "unable to connect", "{}", "[1]"])
def test_wrk_output_without_figures_is_an_error(output: str) -> None:
    """A load without its line of figures is never taken for an empty one."""
    with pytest.raises(BenchError, match="without its line of JSON"):
        parse(output)


def test_a_sum_within_the_requests_in_flight_is_exact() -> None:
    """Every acknowledged write and at most those in flight; one less or one more fails the run."""
    exact = []
    for total in range(90, 150):
        with contextlib.suppress(BenchError):
            check_exact(total, acknowledged=100, cut=32)
            exact.append(total)
    assert exact == [*range(100, 133)]
    with pytest.raises(BenchError, match="not exact"):
        check_exact(133, acknowledged=100, cut=32)


def test_ratios_pair_runs_of_the_same_round() -> None:
    """A round that only one side has is left out; the median is that of the ratios, not of the figures."""
    ours = by_round([row("a", 0, per_s=10), row("a", 1, per_s=30), row("a", 2, per_s=99)], "per_s")
    theirs = by_round([row("b", 1, per_s=10), row("b", 0, per_s=10)], "per_s")
    assert paired(ours, theirs) == Spread(2.0, 1.0, 3.0, 2)


def test_nothing_to_pair_is_no_ratio() -> None:
    """Without a common round there is no ratio, and without values no spread."""
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert spread([]) is None


def test_every_side_goes_first_in_turn() -> None:
    """Sides follow each other within a scenario; who begins rotates by round."""
    order = [(round_, side) for round_, _, side in turns(3, ("w32",), ("a", "b", "c"))]
    assert order == [(r, side) for r, sides in enumerate(("abc", "bca", "cab")) for side in sides]


def test_runs_survive_a_restart_without_their_torn_end(tmp_path: Path) -> None:
    """A rerun sees every whole row; half a line from a killed writer is dropped,
    and writing goes on after it.
    """
    path = tmp_path / "runs.jsonl"
    Runs(path, SETTINGS).add(row("a", 0, per_s=1))
    with path.open("a") as file:
        file.write('{"kind": "lo')
    Runs(path, SETTINGS).add(row("a", 1, per_s=2))
    again = Runs(path, SETTINGS)
    assert [again.has("load", "a", "w32", number) for number in range(3)] == [True, True, False]


def test_runs_of_other_settings_are_refused(tmp_path: Path) -> None:
    """Figures of other code or other lengths are never mixed; the message names the way out."""
    Runs(tmp_path / "runs.jsonl", SETTINGS)
    with pytest.raises(BenchError, match="--fresh"):
        Runs(tmp_path / "runs.jsonl", {**SETTINGS, "code": "other"})


def test_fresh_forgets_the_runs(tmp_path: Path) -> None:
    """Starting over keeps no row, whatever the settings were."""
    Runs(tmp_path / "runs.jsonl", {**SETTINGS, "code": "other"}).add(row("a", 0, per_s=1))
    assert Runs(tmp_path / "runs.jsonl", SETTINGS, is_fresh=True).rows == []


def test_the_fingerprint_follows_the_measured_code(tmp_path: Path) -> None:
    """A changed file of a room changes the fingerprint; a test does not."""
    for folder in ("streams", "tests"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("1")
    first = fingerprint(tmp_path)
    (tmp_path / "tests" / "a.py").write_text("2")
    assert fingerprint(tmp_path) == first
    (tmp_path / "streams" / "a.py").write_text("2")
    assert fingerprint(tmp_path) != first


def test_processor_time_includes_ended_children() -> None:
    """The four tick fields after a name that holds blanks and parentheses."""
    stat = parse_stat("7 (a (b) c) S 3 7 7 0 -1 4194304 100 0 0 0 100 200 300 400 20 0 1 0 5 0 0")
    assert (stat.parent, stat.cpu_s * 100) == (3, 1000)


def test_a_process_counts_with_all_below_it() -> None:
    """Grandchildren belong to the tree; strangers and roots that are gone do not."""
    assert descendants([1, 99], {1: 0, 2: 1, 3: 2, 8: 0, 9: 8}) == {1, 2, 3}


def test_sparse_and_empty_files_weigh_what_they_hold(tmp_path: Path) -> None:
    """A hole counts nothing; a short file counts its length, not its block."""
    (tmp_path / "short").write_bytes(b"x" * 10)
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(10_000_000)
    assert disk_bytes(tmp_path) == 10


def test_a_sync_call_counts_once_though_it_was_interrupted() -> None:
    """A call is counted where it begins, not again where strace shows it resumed."""
    trace = "7 fdatasync(3 <unfinished ...>\n8 fsync(4) = 0\n7 <... fdatasync resumed>) = 0\n7 +++ exited with 0 +++\n"
    assert count_sync_calls(trace) == 2


@pytest.mark.parametrize(
    ("at_most", "value", "met"), [(True, 1.0, True), (True, 1.1, False), (False, 0.9, False)]
)
def test_a_budget_bounds_from_its_side(at_most: bool, value: float, met: bool) -> None:
    """At most bounds from above, at least from below; the bound itself is met."""
    assert Budget("perdure", "w32", 1.0, at_most=at_most).met(value) is met


def test_the_page_puts_paired_ratios_first(tmp_path: Path) -> None:
    """Ratios stand before figures, and a missed budget says so."""
    runs = Runs(tmp_path / "runs.jsonl", SETTINGS)
    figures = {
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "cpu_us": 50.0,
        "bytes_per_command": 100.0,
        "sum": 12,
        "acknowledged": 10,
    }
    runs.add(row("perdure", 0, per_s=850, **figures))
    runs.add(row("limit", 0, per_s=1000, **figures))
    page = report.render(runs, report.Page(datetime(2026, 1, 2, tzinfo=UTC), {}, {}, {}, {}))
    assert page.index("## Ratios") < page.index("## Figures")
    assert "| ≥ 0.9 of limit | 0.85 | **missed** |" in page
    assert "| perdure | 850 | 1.00 | 2.00 | 50.0 | - | 100 | 2 to 2 |" in page


def test_the_page_shows_what_the_systems_do(tmp_path: Path) -> None:
    """A decision's latency stands under its budget of 1 ms, an alarm's rate with how many there were."""
    runs = Runs(tmp_path / "runs.jsonl", SETTINGS)
    head = {"side": "perdure", "round": 0}
    runs.add(head | {"kind": "limiter", "scenario": "limiter", "limiter_p50_ms": 1.5})
    runs.add(head | {"kind": "alarms", "scenario": "alarms", "alarms": 10_000, "alarms_per_s": 5_000})
    page = report.render(runs, report.Page(datetime(2026, 1, 2, tzinfo=UTC), {}, {}, {}, {}))
    assert "| perdure | rate limiter's decision, 1 client, p50, ms | ≤ 1 | 1.50 | **missed** |" in page
    assert "| alarms/s | perdure | 10,000 alarms | 5,000 |" in page


def test_every_measurement_is_one_of_the_campaign() -> None:
    """What can be named on the command line can be made."""
    assert [name for name in MEASUREMENTS if not callable(getattr(Campaign, name, None))] == []


def test_a_system_is_measured_once_on_each_of_our_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peers have no part in it, what is there already is not made again, and a
    failing side stops no other.
    """
    made = []

    def fake(side: Perdure, seconds: float, round_: int, work: Path) -> Row:
        made.append((side.name, seconds, round_))
        if side.name == "perdure-kafka":
            raise BenchError("no broker")
        return {"kind": "calls", "side": side.name, "scenario": "calls", "round": round_}

    monkeypatch.setattr("bench.systems.limiter", fake)
    monkeypatch.setattr("bench.systems.calls", fake)
    runs = Runs(tmp_path / "runs.jsonl", SETTINGS)
    runs.add({"kind": "limiter", "side": "perdure", "scenario": "limiter", "round": 0})
    campaign = Campaign(PLAN, runs, tmp_path, SIDES)
    campaign.limiter()
    campaign.calls()
    assert made == [("perdure-kafka", 1.5, 0), ("perdure", 1.5, 0), ("perdure-kafka", 1.5, 0)]
    assert campaign.absent == {f"{name} perdure-kafka": "no broker" for name in ("limiter", "calls")}


def test_sides_that_start_slowly_take_part_in_fewer_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of every three rounds has all sides, so that each ratio has a pair."""

    def fake(side: Side, scenario: Scenario, round_: int, seconds: float, work: Path) -> Row:
        return {"kind": "load", "side": side.name, "scenario": scenario.name, "round": round_}

    monkeypatch.setattr("bench.measure.measure", fake)
    runs = Runs(tmp_path / "runs.jsonl", SETTINGS)
    Campaign(PLAN, runs, tmp_path, SIDES).compare()
    made = {round_: {row["side"] for row in runs.rows if row["round"] == round_} for round_ in range(4)}
    quick = {"perdure", "limit", "workerd"}
    assert made == {0: set(SIDES), 1: quick, 2: quick, 3: set(SIDES)}


def test_a_side_asked_for_other_objects_is_a_copy() -> None:
    """Its targets, its app and what it is started with are its own; the side itself keeps counting."""
    side = Perdure()
    other = side.at("/objects/Bell/o", app="bench/app", suffix="?at=1", headers={"a": "b"}, env={"X": "1"})
    assert (other.write.path(7), other.read.path(7)) == ("/objects/Bell/o7?at=1", "/objects/Bell/o7")
    assert (other.app, other.env, other.read.headers) == ("bench/app", {"X": "1"}, {"a": "b"})
    assert (side.app, side.env, side.write.path(7)) == ("examples", {}, "/objects/Counter/o7")


def test_a_metric_is_summed_over_its_partitions() -> None:
    """Other metrics, those whose names begin alike too, and comments do not count."""
    text = '# HELP a_total\na_total{partition="0"} 2.0\na_total{partition="1"} 3.0\na_total_b{partition="0"} 9.0\n'
    assert summed(text, "a_total") == 5


def test_the_order_of_growth_is_the_exponent_of_n() -> None:
    """The same cost for any n is 0, in proportion 1, squared 2."""
    sizes = (10, 100, 1000)
    assert order([Cost(n, 5.0) for n in sizes]) == 0
    assert order([Cost(n, 0.1 * n) for n in sizes]) == pytest.approx(1)
    assert order([Cost(n, 0.1 * n * n) for n in sizes]) == pytest.approx(2)


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_each_case_of_growth_can_be_measured(case: Case) -> None:
    """It builds what waits, and its step can be taken as often as it is measured."""
    measured = cost(case, 50)
    assert measured.n == 50
    assert measured.ms >= 0


def test_a_scattered_load_asks_for_each_object_once() -> None:
    """So the counters to be summed are known without asking all of a million."""
    scattered = SCENARIOS["w32m"]
    first = list(requested(scattered, 10_000))
    assert len(set(first)) == 10_000
    assert max(first) > 0.99 * scattered.objects
    assert len(set(requested(scattered, 2 * scattered.objects))) == scattered.objects
    assert list(requested(SCENARIOS["w32"], 5)) == list(range(1_000))


def test_a_scenario_is_compared_with_another_of_the_same_side(tmp_path: Path) -> None:
    """Round by round, and shown in a table of its own."""
    runs = Runs(tmp_path / "runs.jsonl", SETTINGS)
    for round_, (plain, keyed) in enumerate(((1000.0, 900.0), (2000.0, 1700.0))):
        runs.add({**row("perdure", round_, per_s=plain, p99_ms=5.0, cpu_us=50.0)})
        runs.add({**row("perdure", round_, per_s=keyed, p99_ms=6.0, cpu_us=60.0), "scenario": "w32k"})
    found = report.beside(runs, "perdure", "w32k", "per_s")
    assert found == Spread(0.875, 0.85, 0.9, 2)
    assert report.beside(runs, "build", "w32k", "per_s") is None


def test_a_build_of_no_commit_is_left_out() -> None:
    """With what git says of it."""
    with pytest.raises(BenchError, match="rev-parse"):
        Build("no-such-commit").prepare()


def test_the_way_of_a_post_goes_forward() -> None:
    """From the request's bytes to its fold through few modules, and few of them twice: that is read first."""
    calls = trace("POST")
    assert entries(calls)[0].function == "FastPathProtocol.data_received"
    assert {"Turns.take", "Journal.fill", "Sync._fsync", "Tables.applied"} <= {
        call.function for call in calls
    }
    assert len({call.module for call in calls}) <= 30
    assert returns(calls) <= 28  # 25 on a machine that is not busy: no timer falls into it
