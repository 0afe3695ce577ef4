"""What holds of the tests themselves."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.unit.test_house import ROOT, names, sources, tree_of

# methods that raise unless what they wait for, or look at, is so
CLAIMS = {"audit", "check", "check_state", "fail", "has", "has_acked", "raises", "until", "verify", "warns"}
# helpers that end every story alike: a test claims something of its own
BLANKET = {"story", "run", "main"}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))


def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return path if path.exists() else None


@cache
def helpers_of(path: Path) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions that a test file can call by name: its own, and those it imports from other tests."""
    tree, found = tree_of(path), {}
    for each in ast.walk(tree):
        if isinstance(each, ast.ImportFrom) and each.module and each.module.startswith("tests"):
            source = file_of(each.module)
            for alias in each.names if source else ():
                theirs = {function.name: function for function in functions(tree_of(source))}
                if alias.name in theirs:
                    found[alias.asname or alias.name] = theirs[alias.name]
    return found | {each.name: each for each in functions(tree)}


def claims(path: Path, node: ast.AST, seen: frozenset[str] = frozenset()) -> bool:
    """True if the code asserts, expects an error, or calls a helper that does."""
    for each in ast.walk(node):
        if isinstance(each, ast.Assert | ast.Raise):
            return True
        if isinstance(each, ast.Attribute) and each.attr in CLAIMS:
            return True
        if isinstance(each, ast.Name) and each.id not in BLANKET | seen:
            helper = helpers_of(path).get(each.id)
            if helper is not None and claims(path, helper, seen | {each.id}):
                return True
    return False


def test_every_test_claims_something() -> None:
    """By an assert, an expected error, or a helper that does so; not by the absence of an error alone."""
    idle = [
        f"{names(path)}:{function.lineno}: {function.name}"
        for path in sources("tests")
        if path.name.startswith("test_")
        for function in functions(tree_of(path))
        if function.name.startswith("test_") and not claims(path, function)
    ]
    assert idle == []


def test_a_test_without_a_claim_is_noticed(tmp_path: Path) -> None:
    """And one whose helper claims is not."""
    path = tmp_path / "test_x.py"
    path.write_text(
        "def helper(x):\n    assert x\n\n"
        "def test_a():\n    helper(1)\n\n"
        "def test_b():\n    print(1)\n\n"
        "def test_c():\n    story(lambda: None)\n"
    )
    assert [each.name for each in functions(tree_of(path)) if not claims(path, each)] == ["test_b", "test_c"]


def test_the_tests_that_a_module_names_are_there() -> None:
    """In its docstring or a comment, by the name of their file."""
    there = {path.name for path in sources("tests")} | {"test_app.py"}  # the last is that of a new project
    missing = [
        f"{names(path)}: {name}"
        for path in sources("api", "objects", "schemas", "streams")
        for name in sorted(set(re.findall(r"\btest_\w+\.py", path.read_text())) - there)
    ]
    assert missing == []
