"""The rules of the house that no tool checks by itself."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import perdure

ROOT = Path(__file__).parents[2]
ROOMS = ("schemas", "objects", "streams", "api")
LINES_MAX = 400
FUNCTION_LINES_MAX = 60
PARAMETERS_DOCUMENTED = 4  # from so many on each is
# Classes that share a name on purpose: documented names, of which a program sees one.
SHARED_NAMES = {
    "Stub": "an object as a client, a test and another object call it; each is the documented name on its side",
    "Socket": "a WebSocket as a client and a test hold it; each is the documented name on its side",
}
# Words of unfinished work, assembled so that this file does not hold them.
UNFINISHED = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


@cache
def tree_of(path: Path) -> ast.Module:
    """Its syntax, read once for all rules."""
    return ast.parse(path.read_text())


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_face_is_pinned() -> None:
    """What `from perdure import …` offers changes only on purpose, and each name is there."""
    assert sorted(perdure.__all__) == [
        "AlarmInfo",
        "AskAgain",
        "BadFrame",
        "BadKey",
        "BadReply",
        "CallerError",
        "ConfigError",
        "DataDirError",
        "Deadlock",
        "DurableObject",
        "Env",
        "Expired",
        "FailedInside",
        "Fenced",
        "FetchFailed",
        "FetchTimedOut",
        "FetchTooLarge",
        "Forbidden",
        "HandlerFailed",
        "InvalidArguments",
        "KeyConflict",
        "KeyReused",
        "Listing",
        "LogCorrupt",
        "LogUnreachable",
        "MalformedCommand",
        "NeverAwaited",
        "NonDeterministic",
        "NotAtHead",
        "NotParked",
        "ObjectError",
        "ObjectPaused",
        "OperatorError",
        "OutcomeUnknown",
        "OverQuota",
        "Overloaded",
        "Parked",
        "PartitionBroken",
        "PerdureError",
        "Projection",
        "Refusal",
        "Request",
        "Response",
        "Runaway",
        "Skipped",
        "SnapshotDamaged",
        "State",
        "StorageFailed",
        "StoreCorrupt",
        "Table",
        "TooLarge",
        "Transaction",
        "TurnEnded",
        "TurnEntry",
        "Unauthenticated",
        "Unavailable",
        "UnfitValue",
        "UnknownMethod",
        "UnknownNamespace",
        "Unreachable",
        "UnstorableValue",
        "WebSocket",
        "WebSocketPair",
        "connect",
        "fetch",
        "projection",
    ]
    assert all(hasattr(perdure, name) for name in perdure.__all__)


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_a_link_in_the_package(room: str) -> None:
    """`perdure.<room>` is the folder at the top, so that there is one copy of each module."""
    link = ROOT / "src" / "perdure" / room
    assert link.is_symlink()
    assert link.resolve() == ROOT / room


def test_rooms_are_imported_by_their_full_name() -> None:
    """Nothing imports `streams` or `.x`: a second copy of each class would appear."""
    wrong = []
    for path in sources(*ROOMS, "tests", "examples", "bench"):
        for node in ast.walk(tree_of(path)):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = ["." if node.level else node.module or ""]
            for module in modules:
                if module.partition(".")[0] in ("", *ROOMS):
                    wrong.append(f"{names(path)}:{node.lineno}: {module}")
    assert wrong == []


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many lines a function's docstring has, 0 if it has none."""
    return 0 if ast.get_docstring(node) is None else (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def test_files_and_functions_fit() -> None:
    """No file of a room above 400 lines, no function above a screen; what a
    docstring explains does not count.
    """
    wrong = []
    for path in sources(*ROOMS):
        text = path.read_text()
        if text.count("\n") > LINES_MAX:
            wrong.append(f"{names(path)}: {text.count(chr(10))} lines")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)
                if length > FUNCTION_LINES_MAX:
                    wrong.append(f"{names(path)}:{node.lineno}: {node.name} has {length} lines")
    assert wrong == []


def test_each_class_has_a_name_of_its_own() -> None:
    """A class's name leads to one class: a search for it finds what is meant, not a
    namesake in another package.
    """
    places: dict[str, list[str]] = {}
    for path in sources(*ROOMS):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(f"{names(path)}:{node.lineno}")
    shared = {name: where for name, where in places.items() if len(where) > 1}
    assert {name: where for name, where in shared.items() if name not in SHARED_NAMES} == {}
    assert sorted(shared) == sorted(SHARED_NAMES), "an exception that is not used any more"


def test_each_file_of_a_room_says_what_it_is() -> None:
    """A module opens with a docstring."""
    silent = [
        names(path) for path in sources(*ROOMS) if path.read_text() and not ast.get_docstring(tree_of(path))
    ]
    assert silent == []


Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(body: list[ast.stmt], cls: ast.ClassDef | None = None) -> Iterator[tuple[Function, str]]:
    """Those of a module that other modules may call, each with its documentation:
    of `__init__` its class's too.
    """
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, node)
        elif isinstance(node, Function) and not any(
            "overload" in ast.unparse(d) for d in node.decorator_list
        ):
            if cls is not None and node.name == "__init__":
                yield node, f"{ast.get_docstring(cls)}\n{ast.get_docstring(node)}"
            elif not node.name.startswith("_"):
                yield node, ast.get_docstring(node) or ""


def undocumented(node: Function, text: str) -> list[str]:
    """The parameters of a function of several that its documentation does not name."""
    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    names_ = [each.arg for each in arguments if each.arg not in ("self", "cls")]
    if len(names_) < PARAMETERS_DOCUMENTED or re.search(r"(?:As|See|are those of|as of) `[\w.]+`", text):
        return []
    lines = re.findall(r"^\s*(\w+(?:, \w+)*): ", text, re.MULTILINE)
    named = {each for line in lines for each in line.split(", ")} | set(re.findall(r"`(\w+)`", text))
    return [name for name in names_ if name not in named]


@cache
def used_elsewhere() -> dict[str, set[str]]:
    """By module: the names that modules of other packages import from it."""
    used: dict[str, set[str]] = {}
    for path in sources(*ROOMS):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("perdure."):
                module = ROOT / f"{(node.module or '').removeprefix('perdure.').replace('.', '/')}.py"
                if module.parent != path.parent:
                    used.setdefault(names(module), set()).update(alias.name for alias in node.names)
    return used


def documented_parts(path: Path) -> list[ast.stmt]:
    """What of a module must document its parameters: all of it if programs use it, and otherwise what
    other packages use. Typer documents the commands.
    """
    body = tree_of(path).body
    if path.is_relative_to(ROOT / "api/cli"):
        return []
    if names(path).startswith(("objects/", "schemas/", "api/client/", "api/testing/", "streams/log/base.py")):
        return body
    used = used_elsewhere().get(names(path), set())
    return [
        node
        for node in body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name in used
    ]


def test_parameters_of_functions_of_several_are_documented() -> None:
    """Of public functions with four or more, each: what it means, its unit, its default."""
    wrong = {
        f"{names(path)}:{node.lineno}: {node.name}": missing
        for path in sources(*ROOMS)
        for node, text in public_functions(documented_parts(path))
        if (missing := undocumented(node, text))
    }
    assert wrong == {}


@pytest.mark.parametrize(("text", "missing"), [("Adds.", ["a", "b", "c", "d"]), ("a, b, c: numbers.", ["d"])])
def test_a_parameter_that_is_not_documented_is_found(text: str, missing: list[str]) -> None:
    """The check sees what it is for."""
    function = ast.parse("def add(a, b, c, d): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert undocumented(function, text) == missing


def test_each_public_class_says_what_it_is() -> None:
    """It has a docstring, and its first word is not a question or "Of"."""
    wrong = []
    for path in sources(*ROOMS):
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                text = ast.get_docstring(node) or "Of"
                if re.match(r"(?:Of|What|Whether|How|Where|Who|Which|That|Those)\b", text):
                    wrong.append(f"{names(path)}:{node.lineno}: {node.name}")
    assert wrong == []


def test_predicates_begin_with_true_if() -> None:
    """A function that returns a bool and only looks says when it is True; one that
    also acts says what it does.
    """
    wrong = []
    for path in sources(*ROOMS):
        for node in ast.walk(tree_of(path)):
            if (
                isinstance(node, Function)
                and node.returns is not None
                and ast.unparse(node.returns) == "bool"
            ):
                text = ast.get_docstring(node) or ""
                if re.match(r"(?:Whether|Is|Are|Has|May|Does|Can|True (?!if))", text):
                    wrong.append(f"{names(path)}:{node.lineno}: {node.name}")
    assert wrong == []


def test_each_test_states_its_claim() -> None:
    """Every test function has a docstring."""
    silent = [
        f"{names(path)}: {node.name}"
        for path in sources("tests")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_nothing_is_left_for_later() -> None:
    """No comment or text announces unfinished work."""
    found = []
    for path in sources(*ROOMS, "tests", "examples", "bench"):
        with tokenize.open(path) as file:
            for number, line in enumerate(file, 1):
                if UNFINISHED.search(line):
                    found.append(f"{names(path)}:{number}: {line.strip()}")
    assert found == []


def test_no_conflict_of_a_merge_is_left() -> None:
    """No text of the repository holds the marks that git writes around one."""
    found = [
        f"{names(path)}:{number}"
        for folder in (*ROOMS, "tests", "examples", "bench", "docs", ".")
        for path in (ROOT / folder).glob("*" if folder == "." else "**/*")
        if path.is_file() and path.suffix in {".py", ".md", ".toml", ".yml", ".d2", ".json", ""}
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if line.startswith(("<" * 7 + " ", ">" * 7 + " "))
    ]
    assert found == []


def test_no_test_sleeps() -> None:
    """Tests wait for conditions or move the clock.

    Allowed are `sleep(0)`, sleeps on virtual time, the pause of a loop that polls what has no event (a broker
    that starts), and one whose line says its reason.
    """
    found = []
    for path in sources("tests"):
        text = path.read_text()
        virtual = any(
            each in text
            for each in (
                "VirtualLoop",
                "tests.unit.bare_sockets",
                "tests.unit.one_owner",
                "tests.unit.owners",
                "perdure.testing",
            )
        )
        if not path.name.startswith("test_") or virtual:
            continue
        tree, lines = tree_of(path), text.splitlines()
        polling = {
            id(each) for loop in ast.walk(tree) if isinstance(loop, ast.While) for each in ast.walk(loop)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or id(node) in polling or "  # " in lines[node.lineno - 1]:
                continue
            called = ast.unparse(node.func)
            zero = len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if called in ("time.sleep", "asyncio.sleep", "sleep") and not zero:
                found.append(f"{names(path)}:{node.lineno}")
    assert found == []
