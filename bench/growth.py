"""`python -m bench.growth [CASE ...]`: how the cost of perdure's bookkeeping grows with what waits.

Each case builds n things that wait (done offsets, rows, busy objects) and measures the processor time of one
recurring step over them. A step should cost the same for any n (order 0), or at most in proportion (order 1).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from bench.growth_cases import CASES, Case


@dataclass(frozen=True)
class Cost:
    """The processor time of one step over `n` things, in ms."""

    n: int
    ms: float


def cost(case: Case, n: int) -> Cost:
    """Build `n` things and measure the step `case.times` times."""
    step = case.build(n)
    began = time.process_time()
    for _ in range(case.times):
        step()
    return Cost(n, (time.process_time() - began) * 1000 / case.times)


def order(costs: Sequence[Cost]) -> float:
    """The exponent of n with which the costs grow, from the smallest n to the largest."""
    first, last = costs[0], costs[-1]
    return math.log(max(last.ms, 1e-6) / max(first.ms, 1e-6)) / math.log(last.n / first.n)


def measured(case: Case, show: Callable[[str], None]) -> dict[str, Any]:
    """All sizes of a case: its name, costs and order."""
    costs = []
    for n in case.sizes:
        costs.append(cost(case, n))
        show(f"  n = {n:>9,}  {costs[-1].ms:10.3f} ms")
    return {
        "case": case.name,
        "what": case.what,
        "costs": [{"n": each.n, "ms": round(each.ms, 4)} for each in costs],
        "order": round(order(costs), 2),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Measure the named cases, or all; 0."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth",
        description=__doc__,
        epilog="example: python -m bench.growth done-ahead --json",
    )
    known = ", ".join(CASES)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{known} (all)")
    parser.add_argument("--json", action="store_true", help="print JSON, an object for each case")
    options = parser.parse_args(words)
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"unknown case {unknown[0]!r}; known cases: {known}")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is read by programs
    show = (lambda line: None) if options.json else print
    for name in options.cases or CASES:
        show(f"{name}: {CASES[name].what}")
        figures = measured(CASES[name], show)
        if options.json:
            print(json.dumps(figures))
        else:
            show(f"  grows with n to the power of {figures['order']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
