"""Time zones: the newer of the system's rules and those of the package, and which they are."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
import tzdata
from tests.process import clean_environ

from perdure.objects.zones import UNKNOWN, Rules, zone

NAME = "America/Vancouver"
ASK = """
import sys
from datetime import datetime
from zoneinfo import ZoneInfo
ZoneInfo("America/Vancouver")  # the system's is in zoneinfo's cache already
from perdure.objects.alarms import next_due
from perdure.objects.zones import rules
print(rules())
for name in sys.argv[1:]:
    print(next_due("0 8 * * *", name, 1_700_000_000_000))
"""


def fixed(hours: int) -> bytes:
    """A time zone file: so many hours off UTC, always, by an abbreviation of its own."""
    head = b"TZif2" + bytes(15) + struct.pack(">6I", 0, 0, 0, 0, 1, 4)
    body = struct.pack(">iBB", hours * 3600, 0, 0) + b"XYZ\0"
    return head + body + head + body + f"\nXYZ{-hours}\n".encode()


def system(path: Path, version: str | None, *names: str, file: str = "tzdata.zi") -> Path:
    """A folder of time zones, all of them 13 hours ahead of UTC."""
    for name in ("Etc/UTC", NAME, *names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(fixed(13))
    if version is not None:
        (path / file).write_text(f"# version {version}\n" if file == "tzdata.zi" else f"{version}\n")
    return path


def told(*folders: Path, names: tuple[str, ...] = (NAME,)) -> list[str]:
    """What a new process says of its rules, and when it is eight o'clock."""
    environ = clean_environ(PYTHONTZPATH=":".join(map(str, folders)))
    command = [sys.executable, "-c", ASK, *names]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


AT_13 = 1_700_074_800_000  # 8:00 where it is 13 hours later than in Greenwich
PACKAGE = f"{tzdata.IANA_VERSION} (the tzdata package)"


@pytest.mark.parametrize("version", ["1999a", "2001z", None])
def test_an_older_system_is_passed_over(tmp_path: Path, version: str | None) -> None:
    """Or one that does not say how old it is; though zoneinfo has taken its rules before."""
    said, due = told(system(tmp_path, version))
    assert said == f"{PACKAGE}, not {version or UNKNOWN} (the system's, in {tmp_path})"
    assert int(due) != AT_13


@pytest.mark.parametrize("file", ["tzdata.zi", "+VERSION"])
def test_a_newer_system_is_taken(tmp_path: Path, file: str) -> None:
    """By either way of saying which it is."""
    said, due = told(system(tmp_path, "2999b", file=file))
    assert said == f"2999b (the system's, in {tmp_path}), not {PACKAGE}"
    assert int(due) == AT_13


def test_the_package_is_taken_if_both_are_the_same_or_there_is_no_system(tmp_path: Path) -> None:
    """Also if the folder is there and empty."""
    said, due = told(system(tmp_path / "same", tzdata.IANA_VERSION))
    assert said.startswith(PACKAGE)
    assert int(due) != AT_13
    assert told(tmp_path / "empty")[0] == PACKAGE


def test_what_only_the_system_knows_is_the_systems(tmp_path: Path) -> None:
    """A name of its own."""
    _, due = told(system(tmp_path, "1999a", "Local/Office"), names=("Local/Office",))
    assert int(due) == AT_13


@pytest.mark.parametrize(
    ("package", "of_system", "taken"),
    [
        ("2025b", "2025a", True),
        ("2025b", "2025c", False),
        ("2025b", "2026a", False),
        ("2025z", "2025za", False),
        ("2025b", UNKNOWN, True),
        ("2025b", "", True),
        ("", "2025b", False),
    ],
)
def test_versions_are_compared(package: str, of_system: str, taken: bool) -> None:
    """By year, then letter; none is older than any."""
    assert Rules(package, of_system, "/zones").of_package == taken


def test_without_any_rules_there_is_utc() -> None:
    """And it says so."""
    assert "UTC" in str(Rules("", "", ""))


@pytest.mark.parametrize(
    "name", ["Europe", "..", "Europe/../Europe/Berlin", "/etc/passwd", "tzdata.zi", "Europe/Berlin/"]
)
def test_a_name_that_is_not_a_zone_is_refused(name: str) -> None:
    """Folders and ways out of them too."""
    with pytest.raises(ValueError, match="not a time zone"):
        zone(name)


def test_a_zone_is_made_once() -> None:
    """Cron alarms ask for the same one each time."""
    assert zone("Europe/Berlin") is zone("Europe/Berlin")
    assert str(zone("Europe/Berlin")) == "Europe/Berlin"
