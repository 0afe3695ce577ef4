"""The tree of errors: each that a user can meet is `perdure.X`, and `help` of it says what a user needs."""

from __future__ import annotations

import ast
import builtins
import inspect
import re

import pytest
from tests.unit.test_house import ROOMS, names, sources, tree_of

import perdure
import perdure.testing
from perdure.schemas import errors
from perdure.schemas.errors import PerdureError, tree

PARTS = re.compile(r"\A\S.*\n\nWhose fault: \S.*\nWhat to do: \S", re.DOTALL)
# Exceptions outside of the tree, none of which leaves perdure as it is: their class -> what becomes of them.
INTERNAL = {
    "Interrupted": "raised into a runaway's frame; its command fails with Runaway",
    "Invalid": "a request that is not HTTP; answered in plain text",
    "RequestRefused": "a request of a Kafka client; its code is answered",
    "Refused": "a request that a page refuses; it holds the answer",
    "SocketClosed": "perdure.testing.SocketClosed, which no server raises",
    "TooMuch": "a batch of a Kafka client that is too large unpacked; answered with a code",
    "Undecodable": "a batch of a Kafka client that cannot be unpacked; answered with a code",
    "UnreadableFrame": "bytes of a Kafka client that are not a request; its connection is closed",
    "Unfit": "a value that does not fit; becomes InvalidArguments or BadReply, which name the argument",
}


def exceptions() -> dict[str, str]:
    """The product's public classes that are exceptions, by their source: name -> where."""
    bases: dict[str, tuple[list[str], str]] = {}
    for path in sources(*ROOMS):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(base) for base in node.bases], f"{names(path)}:{node.lineno}"

    def is_exception(name: str) -> bool:
        known = getattr(builtins, name, None)
        if isinstance(known, type):
            return issubclass(known, BaseException)
        return name in bases and any(is_exception(base) for base in bases[name][0])

    return {name: where for name, (_, where) in bases.items() if name[0] != "_" and is_exception(name)}


def test_each_error_a_user_can_meet_is_in_the_tree() -> None:
    """No exception class stands outside of it, but those that never leave perdure."""
    own = {each.__name__ for each in tree()}
    outside = {name: where for name, where in exceptions().items() if name not in own}
    assert {name: where for name, where in outside.items() if name not in INTERNAL} == {}
    assert sorted(outside) == sorted(INTERNAL), "an exception that is not there any more"


@pytest.mark.parametrize("cls", [*tree(), perdure.testing.SocketClosed], ids=lambda cls: cls.__name__)
def test_help_of_an_error_says_when_whose_fault_and_what_to_do(cls: type[Exception]) -> None:
    """The three parts, in its own docstring."""
    assert PARTS.match(inspect.cleandoc(cls.__dict__.get("__doc__") or "")), cls.__doc__


@pytest.mark.parametrize("text", ["It failed.", "It failed.\n\nWhose fault: the caller's."])
def test_a_docstring_that_lacks_a_part_is_found(text: str) -> None:
    """The check sees what it is for."""
    assert not PARTS.match(text)


def test_each_error_is_a_name_of_the_package() -> None:
    """`perdure.X` is the class; it is listed, and in the reference by its module."""
    for cls in tree():
        assert getattr(perdure, cls.__name__) is cls
        assert cls.__name__ in perdure.__all__
        assert cls.__name__ in errors.__all__


def test_the_tree_is_drawn_as_it_is() -> None:
    """The docstring of the module shows each class below its parent."""
    drawn, path = set(), [""]
    for bars, name in re.findall(
        r"^([│├└ ─]*)([A-Z]\w+)", (errors.__doc__ or "").partition("\nPerdureError")[2], re.MULTILINE
    ):
        del path[len(bars) // 4 :]
        path.append(name)
        drawn.add((path[-2] or "PerdureError", name))
    assert drawn == {(cls.__bases__[0].__name__, cls.__name__) for cls in tree() if cls is not PerdureError}


def test_a_code_leads_to_the_class_that_defines_it() -> None:
    """A case without a code of its own (`Unreachable`, `NeverAwaited`) does not stand in for its parent."""
    for code, cls in (("unavailable", perdure.Unavailable), ("object-error", perdure.ObjectError)):
        assert errors.error_named(code) is cls
    assert errors.error_named("key-reused") is perdure.KeyReused
