"""Time zones by name, by the newer of two sets of rules: the system's files, or the package `tzdata`.

Python's own `zoneinfo` takes the system's files wherever there are any, however old. Governments change their
rules at short notice, and a container's image is often older than the packages in it.

Laws
- The newer version is used; the package's, if both are the same or the system's version is unknown.
  [test_zones.py]
- A name that the package does not have is looked up in the system's files.
- The choice is made once per process, at the first use; an alarm's row carries the times computed from it.
"""

from __future__ import annotations

import re
import zoneinfo
from datetime import UTC, tzinfo
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

UNKNOWN = "of an unknown version"
_NAME = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
_VERSION = re.compile(r"(\d{4})([a-z]+)")
_A_ZONE = "Etc/UTC"  # there is one in each set


class Rules(NamedTuple):
    """The time zone rules in use: the versions of package and system, empty if one is not there."""

    package: str
    system: str
    folder: str

    @property
    def of_package(self) -> bool:
        """True if the package's are taken."""
        return bool(self.package) and _rank(self.package) >= _rank(self.system)

    def __str__(self) -> str:
        package, system = (
            f"{self.package} (the tzdata package)",
            f"{self.system} (the system's, in {self.folder})",
        )
        if not self.system or not self.package:
            return (
                (package if self.package else system)
                if self.package or self.system
                else "none: only UTC is known"
            )
        taken, left = (package, system) if self.of_package else (system, package)
        return f"{taken}, not {left}"


def _rank(version: str) -> tuple[int, int, str]:
    """The rank of a version: 2025b < 2025c < 2026a. Any other text is older."""
    match = _VERSION.fullmatch(version)
    return (0, 0, "") if match is None else (int(match[1]), len(match[2]), match[2])


@lru_cache(maxsize=1)
def rules() -> Rules:
    """The rules that this process uses."""
    folder = next((Path(each) for each in zoneinfo.TZPATH if (Path(each) / _A_ZONE).is_file()), None)
    return Rules(_of_package(), "" if folder is None else _of_system(folder), str(folder or ""))


def _of_package() -> str:
    try:
        import tzdata  # type: ignore[import-untyped]  # it has no types
    except ImportError:
        return ""
    return str(tzdata.IANA_VERSION)


def _of_system(folder: Path) -> str:
    """The version of a folder of time zones: `# version 2025b` in tzdata.zi, or a file +VERSION."""
    for name in ("tzdata.zi", "+VERSION"):
        try:
            with (folder / name).open(encoding="ascii", errors="replace") as file:
                first = file.readline(100)
        except OSError:
            continue
        if match := _VERSION.search(first):
            return match[0]
    return UNKNOWN


@lru_cache(maxsize=1024)
def zone(name: str) -> tzinfo:
    """The time zone with this name, UTC for an empty one. Raises `ValueError` if there is none."""
    if name in ("", "UTC"):
        return UTC
    try:
        packaged = _from_package(name) if rules().of_package else None
        return packaged or ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"zone={name!r} is not a time zone: use a name such as Europe/Berlin") from error


def _from_package(name: str) -> ZoneInfo | None:
    if _NAME.fullmatch(name) is None:
        return None
    file = resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    try:
        with file.open("rb") as source:
            return ZoneInfo.from_file(source, key=name)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
