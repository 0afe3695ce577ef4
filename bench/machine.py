"""Readings of the kernel: processor time, memory, disk, and the facts about this machine.

Laws
- A process counts with all its descendants, those that have ended and were waited for too.
- A file's size on disk is the smaller of its length and its blocks: neither preallocated logs nor sparse
  indexes count for more than they hold.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


class Stat(NamedTuple):
    """A reading of `/proc/PID/stat`: the parent, and the processor seconds including ended children."""

    parent: int
    cpu_s: float


def parse_stat(text: str) -> Stat:
    """Reads one `/proc/PID/stat`; a name may hold blanks and parentheses."""
    fields = text.rpartition(")")[2].split()
    ticks = sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    return Stat(int(fields[1]), ticks / TICKS_PER_S)


def _stats() -> dict[int, Stat]:
    stats = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                stats[int(entry.name)] = parse_stat((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
    return stats


def descendants(roots: Iterable[int], parents: dict[int, int]) -> set[int]:
    """The roots and everything below them; `parents` maps a process to its parent."""
    tree = {root for root in roots if root in parents}
    while True:
        more = {pid for pid, parent in parents.items() if parent in tree} - tree
        if not more:
            return tree
        tree |= more


def cpu_s(roots: Iterable[int]) -> float:
    """Processor seconds, user and system, that the processes and their descendants have used."""
    stats = _stats()
    tree = descendants(roots, {pid: stat.parent for pid, stat in stats.items()})
    return sum(stats[pid].cpu_s for pid in tree)


def rss_bytes(pid: int) -> int:
    """Resident memory of one process."""
    return int((PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def settled_rss_bytes(pid: int, *, step_s: float = 1.0, at_most_s: float = 20.0) -> int:
    """Resident memory once it has moved by less than 1 % in three steps; the last value if it never does."""
    seen = [rss_bytes(pid)]
    ends = time.monotonic() + at_most_s
    while time.monotonic() < ends:
        time.sleep(step_s)
        seen.append(rss_bytes(pid))
        recent = seen[-4:]
        if len(recent) == 4 and max(recent) - min(recent) < max(recent) / 100:
            break
    return seen[-1]


def disk_bytes(directory: Path) -> int:
    """What the files under `directory` hold; files that vanish meanwhile count nothing."""
    total = 0
    for where, _, names in os.walk(directory):
        for name in names:
            try:
                stat = os.stat(os.path.join(where, name))
            except FileNotFoundError:
                continue
            total += min(stat.st_size, stat.st_blocks * 512)
    return total


def fdatasync_us(directory: Path, times: int = 200) -> float:
    """The median time, in microseconds, to append 4 KiB to a file in `directory` and fdatasync it."""
    seen = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(times):
            began = time.perf_counter()
            os.write(file.fileno(), bytes(4096))
            os.fdatasync(file.fileno())
            seen.append((time.perf_counter() - began) * 1e6)
    return statistics.median(seen)


def _file_system(path: Path) -> str:
    best, kind = "", "unknown"
    for line in (PROC / "mounts").read_text().splitlines():
        _, mount, this_kind = line.split()[:3]
        if path.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, this_kind
    return kind


def _cpu_model() -> str:
    for line in (PROC / "cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def facts(data: Path) -> dict[str, str]:
    """The machine as the report shows it; `data` is where the servers keep their data."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": f"{os.cpu_count()} cores, {_cpu_model()}",
        "memory": f"{memory_bytes / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": f"{_file_system(data)}; 4 KiB append + fdatasync, median {fdatasync_us(data):.0f} µs",
        "Python": platform.python_version(),
    }
