"""What documents, errors and templates say to install can be installed."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"pip install ((?:(?! and | && |  )[^\n`\")])*)")
FROM_HERE = re.compile(
    r"\.(\[\w+\])?|(?:dist|/tmp)/perdure-\S+\.whl(\[\w+\])?"
)  # a checkout, a wheel that was built in one
ELSEWHERE = {"build", "pytest", "tzdata"}  # on PyPI under that name, of any version


def extras() -> set[str]:
    """The requirements of perdure's extras, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {each for extra in project["optional-dependencies"].values() for each in extra}


def texts() -> Iterator[Path]:
    """Every file that a user reads, or whose texts one reads."""
    yield from (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "compose/Dockerfile")
    for room in ("api", "streams", "objects", "schemas"):
        yield from (ROOT / room).rglob("*.py")
        yield from (ROOT / room).rglob("*.tmpl")


def wrong_in(text: str) -> list[str]:
    """What is to be installed there and cannot be."""
    joined = re.sub(r'"\s*\n\s*f?"', "", text).replace(r"\"", "'")  # one text over several lines of code
    found = []
    for line in LINE.findall(joined.replace('".[kafka]"', "'.[kafka]'")):
        words = shlex.split(line)
        linked = "--find-links" in words
        names = [each for each in words if not each.startswith("-") and not each.endswith("/dist")]
        for name in names:
            known = name in extras() | ELSEWHERE or FROM_HERE.fullmatch(name)
            if not known and not (linked and name == "perdure"):
                found.append(name)
    return found


def test_what_is_said_to_be_installed_can_be() -> None:
    """perdure is on no index: it comes from a checkout or a wheel, its extras from
    PyPI by what pyproject.toml says.
    """
    files = [path for path in texts() if "pip install" in path.read_text()]
    assert len(files) >= 6
    assert {str(path): wrong for path in files if (wrong := wrong_in(path.read_text()))} == {}


@pytest.mark.parametrize(
    "line", ["pip install perdure", "pip install 'perdure[kafka]'", "pip install 'aiokafka>=1'"]
)
def test_a_line_that_cannot_work_is_found(line: str) -> None:
    """The check sees what it is for."""
    assert wrong_in(f"{line}\n")
