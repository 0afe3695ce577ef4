"""Durations as configurations write them: a number and a unit."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration_s(text: str) -> float:
    """Seconds in a text such as `500ms`, `30s`, `10m`, `24h` or `7d`. Raises `ValueError`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f'"{text}" is not a duration; write a number and a unit, such as "30s", "10m", "24h", "7d"'
        )
    return float(match[1]) * _UNIT_S[match[2]]
