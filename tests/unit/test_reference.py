"""The API reference: every public name is on a page, and its docstring says what a caller needs."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import perdure
import perdure.testing
from perdure.schemas import errors
from perdure.schemas.errors import PerdureError

PAGES = Path(__file__).parents[2] / "docs" / "reference"
ENTRY = re.compile(r"^::: (\S+)\n((?: {4,}.*\n)*)", re.MULTILINE)
MEMBERS = re.compile(r"^ +members: \[(.*)\]$", re.MULTILINE)
DOCUMENTED = 3  # parameters beside self, from which on each is described


def entries() -> dict[str, list[str] | None]:
    """What the pages show: full name -> the members that are shown, None for all of them."""
    told: dict[str, list[str] | None] = {}
    for page in sorted(PAGES.glob("*.md")):
        for name, options in ENTRY.findall(f"{page.read_text()}\n"):
            members = MEMBERS.search(options)
            told[name] = members[1].split(", ") if members else None
    return told


def found(name: str) -> Any:
    """The object of this full name."""
    module, _, rest = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), rest)
    except ModuleNotFoundError:
        return getattr(found(module), rest)


def shown() -> Iterator[tuple[str, Any]]:
    """Each class and function of the reference, methods too."""
    for name, members in entries().items():
        if name == errors.__name__:
            continue
        entry = found(name)
        yield name, entry
        if not inspect.isclass(entry):
            continue
        for method in dir(entry) if members is None else members:
            if not method.startswith("_") and _is_perdures(inspect.getattr_static(entry, method, None)):
                yield f"{name}.{method}", getattr(entry, method)


def _is_perdures(raw: Any) -> bool:
    function = raw.__func__ if isinstance(raw, classmethod) else raw
    return inspect.isfunction(function) and function.__module__.startswith("perdure.")


def test_every_public_name_is_in_the_reference() -> None:
    """What perdure and perdure.testing export; errors are there by their module."""
    there = set(entries())
    assert errors.__name__ in there
    for module in (perdure, perdure.testing):
        assert list(missing_in(module, there)) == []


def missing_in(module: ModuleType, there: set[str]) -> Iterator[str]:
    for name in module.__all__:
        if not hasattr(errors, name) and f"{module.__name__}.{name}" not in there:
            yield name


def test_every_entry_says_what_it_is() -> None:
    """No class and no function of the reference is without a docstring; neither is an error."""
    assert [name for name, entry in shown() if not inspect.getdoc(entry)] == []
    own = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, PerdureError)
    ]
    assert [each.__name__ for each in own if not each.__dict__.get("__doc__")] == []


def undescribed(function: Callable[..., Any]) -> list[str]:
    """The parameters that its docstring does not describe, of a function of several."""
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    text = inspect.getdoc(function) or ""
    if re.search(r"(?:As|are those of) `[\w.]+`", text):
        return []
    described = re.findall(r"^(\w+(?:, \w+)*): ", text, re.MULTILINE)
    known = {each for line in described for each in line.split(", ")}
    return [name for name in names if name not in known] if len(names) >= DOCUMENTED else []


def test_every_parameter_of_a_function_of_several_is_described() -> None:
    """Each of three or more has a line `name: meaning, unit, default`."""
    told = {
        name: missing
        for name, entry in shown()
        if not inspect.isclass(entry) and (missing := undescribed(entry))
    }
    assert told == {}


@pytest.mark.parametrize("text", ["Adds.", "Adds.\n\n    one: a number.\n    two: another.\n    "])
def test_a_parameter_that_is_not_described_is_found(text: str) -> None:
    """The check sees what it is for."""

    def add(one: int, two: int, three: int) -> int:
        return one + two + three

    add.__doc__ = text
    assert "three" in undescribed(add)
