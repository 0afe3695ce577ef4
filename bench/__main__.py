"""`python -m bench [MEASUREMENT ...]`: measures what is not measured yet and writes the report."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from bench import load, machine, report
from bench.campaign import Campaign, Plan
from bench.errors import BenchError
from bench.runs import Runs, fingerprint
from bench.scenarios import SCENARIOS
from bench.servers import fresh
from bench.sides import CACHE, REPO, SIDES, Build, Side

SYSTEMS = ("limiter", "calls", "alarms", "listing", "edits", "beside", "produce")
MEASUREMENTS = ("compare", "broadcast", *SYSTEMS, "memory", "restart", "syncs")
INTERRUPTED = 130  # a shell's exit code for SIGINT
USUAL: dict[str, Any] = {"rounds": 3, "seconds": 3.0, "out": REPO / "bench"}
USUAL |= {"objects": 1_000_000, "resident": 100_000, "alarms": 10_000}
QUICK: dict[str, Any] = {"rounds": 1, "seconds": 1.0, "out": CACHE / "quick"}
QUICK |= {"objects": 20_000, "resident": 10_000, "alarms": 2_000}


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    known = ", ".join((*MEASUREMENTS, "report"))
    parser.add_argument("measurements", nargs="*", metavar="MEASUREMENT", help=f"{known} (all)")
    parser.add_argument(
        "--quick", action="store_true", help="short runs, small sizes; results go to the cache"
    )
    parser.add_argument("--fresh", action="store_true", help="forget the runs made so far")
    parser.add_argument("--rounds", type=int, help="runs of each (3; quick 1)")
    parser.add_argument("--seconds", type=float, help="length of one load (3; quick 1)")
    parser.add_argument("--sides", default=",".join(SIDES), help="comma-separated (%(default)s)")
    parser.add_argument(
        "--side-build", metavar="REF", help="perdure of that commit as a further side, `build`"
    )
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="comma-separated (%(default)s)")
    parser.add_argument("--objects", type=int, help="objects on disk for restart (1000000; quick 20000)")
    parser.add_argument("--resident", type=int, help="objects for memory (100000; quick 10000)")
    parser.add_argument("--alarms", type=int, help="alarms that are due at once (10000; quick 2000)")
    parser.add_argument("--sockets", type=int, default=1_000, help="sockets of a broadcast (1000)")
    parser.add_argument("--out", type=Path, help="where results go (bench/; quick: the cache)")
    options = parser.parse_args(words)
    for name, value in (QUICK if options.quick else USUAL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.sides, options.scenarios = options.sides.split(","), options.scenarios.split(",")
    _check_names(parser, options)
    return options


def _check_names(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    known = {"measurements": (*MEASUREMENTS, "report"), "sides": tuple(SIDES), "scenarios": tuple(SCENARIOS)}
    for option, names in known.items():
        for name in getattr(options, option):
            if name not in names:
                parser.error(f"{option}: {name!r} is not one of {', '.join(names)}")


def _prepared(names: list[str], build: str | None) -> tuple[dict[str, Side], dict[str, str]]:
    """The sides that can run here, including that of commit `build`, and why the others cannot."""
    sides = SIDES if build is None else {**SIDES, Build.name: Build(build)}
    names = names if build is None else [*names, Build.name]
    ready: dict[str, Side] = {}
    absent: dict[str, str] = {}
    for name in names:
        try:
            sides[name].prepare()
            ready[name] = sides[name]
        except BenchError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
            absent[name] = str(error)
    return ready, absent


def _write(campaign: Campaign) -> None:
    """Write `results.md` and `results.json` from the rows made so far."""
    page = report.Page(
        at=datetime.now(UTC),
        machine=machine.facts(campaign.work),
        versions={name: side.versions() for name, side in campaign.sides.items()},
        settings={name: side.settings for name, side in campaign.sides.items()},
        absent=campaign.absent,
    )
    where = campaign.runs.path.parent
    (where / "results.md").write_text(report.render(campaign.runs, page))
    raw: dict[str, Any] = {"at": page.at.isoformat(timespec="seconds"), "machine": page.machine}
    raw |= {"versions": page.versions, "settings": campaign.runs.settings, "runs": campaign.runs.rows}
    (where / "results.json").write_text(json.dumps(raw, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    print(f"wrote {where / 'results.md'} and {where / 'results.json'}")


def main(words: list[str]) -> int:
    """Run the requested measurements; the exit code is 1 if any of them is missing from the report."""
    options = _arguments(words)
    sizes = {name: getattr(options, name) for name in ("seconds", "objects", "resident", "sockets", "alarms")}
    try:
        load.wrk_path()
        runs = Runs(options.out / "runs.jsonl", {**sizes, "code": fingerprint(REPO)}, is_fresh=options.fresh)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sides, absent = _prepared(options.sides, options.side_build)
    plan = Plan(rounds=options.rounds, scenarios=tuple(options.scenarios), **sizes)
    campaign = Campaign(plan, runs, fresh(CACHE / "run"), sides, absent)
    for name in options.measurements or MEASUREMENTS:
        if name == "report":
            continue  # written in any case
        try:
            getattr(campaign, name)()
        except BenchError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
            absent[name] = str(error)
        except KeyboardInterrupt:
            print(f"\nstopped; the runs so far are in {runs.path}, run again to continue", file=sys.stderr)
            return INTERRUPTED
    _write(campaign)
    return 1 if absent else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # unwinds through the groups, which end their servers


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main(sys.argv[1:]))
