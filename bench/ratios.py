"""Medians, and ratios of runs made in the same round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """The median of some runs with the least and the greatest."""

    median: float
    least: float
    greatest: float
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """None if there are no values."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values), len(values))


def by_round(rows: Sequence[dict[str, Any]], metric: str) -> dict[int, float]:
    """The metric of each round's row; rows without it are left out."""
    return {int(row["round"]): float(row[metric]) for row in rows if row.get(metric) is not None}


def paired(ours: dict[int, float], theirs: dict[int, float]) -> Spread | None:
    """Ours divided by theirs, round by round; None if no round has both."""
    return spread([ours[number] / theirs[number] for number in sorted(ours) if theirs.get(number)])
