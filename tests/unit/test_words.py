"""The word check of `make lint` (`.ci/words.py`): its rules, and its counts that may only fall."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections import Counter
from types import ModuleType

import pytest
from tests.unit.test_house import ROOT


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("words_check", ROOT / ".ci" / "words.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


words = load()


def rules(source: str) -> list[str]:
    """The rules that a module of Python with this source breaks."""
    return sorted(hit.rule for hit in words.python_hits("x.py", source))


@pytest.mark.parametrize("rule", words.PROSE, ids=lambda rule: rule.name)
def test_each_rule_of_prose_catches_its_example(rule: words.Words) -> None:
    """In a page, a docstring, a comment and a text; and the fault's line is given."""
    assert rule.name in {hit.rule for hit in words.page_hits("x.md", f"# Title\n\n{rule.example}\n")}
    assert rule.name in rules(f'"""Head.\n\n{rule.example}\n"""\n')
    assert rule.name in rules(f"x = 1  # {rule.example}\n")
    assert rule.name in rules(f"raise ValueError(f{rule.example + ' {x}'!r})\n") or "$" in rule.pattern
    (first, *_) = (hit for hit in words.page_hits("x.md", f"\n\n{rule.example}\n") if hit.rule == rule.name)
    assert first.line == 3


@pytest.mark.parametrize(
    "text",
    [
        "There is no such object, and there may be no second one.",
        "The duration is no longer than a day; it is no more than a hint.",
        "When it comes to speed, measure. The service has come to a stop.",
        "Do something else. Nothing else.",
        "The user may tell them apart; they can be told apart.",
        "Write it again, from scratch, before a restart and as before the crash.",
        "Code such as `is no duration` or `anew` is left alone.",
        "Can anyone see my data? Who can see it?",
        "The client is asked to repeat the request.",
    ],
)
def test_good_english_passes(text: str) -> None:
    """What a native engineer writes is not caught."""
    assert list(words.page_hits("x.md", text)) == []
    assert rules(f'"""{text}"""\n') == []


def test_a_sentence_over_two_lines_is_one() -> None:
    """A line break does not hide what a rule forbids, in a docstring or in a comment of several lines."""
    assert rules('"""It is no\nduration."""\n') == ["is-no"]
    assert rules("# It is no\n# duration.\nx = 1\n") == ["is-no"]


@pytest.mark.parametrize(
    ("source", "broken"),
    [
        ("told = 1", ["name"]),
        ("def tell(): ...", ["name"]),
        ("def f(asked): ...", ["name"]),
        ("self._came = 1", ["name"]),
        ("found = 1", ["name"]),
        ("import x as told", ["name"]),
        ("class Asked: ...", ["name"]),
        ("not_found = status_told_twice = 1", ["name"]),
        ("class NotFound: ...", []),
        ("print(told)", []),  # the name is counted where it is given
        ('class A:\n    """Of one partition."""', ["class"]),
        ('class A:\n    """What an owner needs."""', ["class"]),
        ('class A:\n    """The alarms of one partition."""', []),
        ('def f():\n    """May it be emitted?"""', ["predicate"]),
        ('def f():\n    """True if it may be emitted."""', []),
    ],
)
def test_names_and_docstrings(source: str, broken: list[str]) -> None:
    """Names that say nothing of the value, classes that are not said to be a thing, predicates that ask."""
    assert rules(source) == broken
    ast.parse(source)


def test_counts_only_fall() -> None:
    """More hits than before are an error, in a new file any; files that are gone leave theirs to new ones."""
    allowed = Counter({"a": 2, "b": 3})
    both, only_a = (lambda path: True), (lambda path: path == "a")
    assert words.excess(Counter({"a": 2, "b": 1}), allowed, both) == []
    assert words.excess(Counter({"a": 3}), allowed, both) == ["a"]
    assert words.excess(Counter({"new": 1}), allowed, both) == ["new"]
    assert words.excess(Counter({"moved": 2, "split": 1}), allowed, only_a) == []
    assert words.excess(Counter({"moved": 2, "split": 2}), allowed, only_a) == ["split"]
