"""The runs as they are made: a JSON lines file that a rerun continues.

Laws
- The first line holds the settings; runs made under other settings are never mixed in.
- A run is written whole and fsynced before the next begins; half a line at the end, from a killed
  benchmark, is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.errors import BenchError

Row = dict[str, Any]


def fingerprint(repo: Path) -> str:
    """A short hash of the code that is measured: every Python file of the four
    rooms and of what is served.
    """
    seen = hashlib.sha256()
    for room in ("api", "bench/app", "examples", "objects", "schemas", "streams"):
        for path in sorted((repo / room).rglob("*.py")):
            seen.update(str(path.relative_to(repo)).encode() + b"\0" + path.read_bytes())
    return seen.hexdigest()[:12]


def key(row: Row) -> tuple[str, str, str, int]:
    """What a row measured: kind, side, scenario, round."""
    return str(row["kind"]), str(row["side"]), str(row["scenario"]), int(row["round"])


class Runs:
    """The rows of one benchmark in `path`, which begins with `settings`."""

    def __init__(self, path: Path, settings: Row, *, is_fresh: bool = False) -> None:
        self.path = path
        self.settings = settings
        self.rows: list[Row] = []
        if is_fresh:
            path.unlink(missing_ok=True)
        lines = _whole_lines(path)
        if lines:
            self._continue(lines)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._append(settings)

    def _continue(self, lines: list[Row]) -> None:
        differing = [name for name in self.settings if lines[0].get(name) != self.settings[name]]
        if differing:
            was = {name: lines[0].get(name) for name in differing}
            now = {name: self.settings[name] for name in differing}
            raise BenchError(
                f"{self.path} holds runs made with {was}, now it is {now}: use --fresh to start over"
            )
        self.rows = lines[1:]

    def has(self, kind: str, side: str, scenario: str, round_: int) -> bool:
        return (kind, side, scenario, round_) in {key(row) for row in self.rows}

    def add(self, row: Row) -> None:
        self._append(row)
        self.rows.append(row)

    def of(self, kind: str, side: str | None = None, scenario: str | None = None) -> list[Row]:
        """The rows of a kind, by round; of one side or scenario if named."""
        chosen = (
            row
            for row in self.rows
            if row["kind"] == kind and side in (None, row["side"]) and scenario in (None, row["scenario"])
        )
        return sorted(chosen, key=lambda row: int(row["round"]))

    def _append(self, row: Row) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _whole_lines(path: Path) -> list[Row]:
    """The rows in the file; cuts off half a line at its end. Raises BenchError on any other damage."""
    if not path.is_file():
        return []
    text = path.read_text()
    whole, newline, rest = text.rpartition("\n")
    if rest:
        path.write_text(whole + newline)
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise BenchError(f"{path} is not a JSON lines file ({error}): use --fresh to start over") from error


def sides_in(rows: Iterable[Row]) -> set[str]:
    return {str(row["side"]) for row in rows}
