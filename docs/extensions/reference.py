"""How the API reference reads perdure's docstrings: a griffe extension, run by mkdocstrings.

A docstring has a paragraph of lines `name: what it is` for the parameters of its function. They become a list
of parameters with types and defaults. Each class of error gets its code and HTTP status, as the server sends
them.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

from perdure.api.problems import problem_of, problem_of_reply
from perdure.schemas import errors
from perdure.schemas.replies import FAILED, REFUSED, ErrorInfo

_ITEM = re.compile(r"(\w+(?:, \w+)*): ")
_ERRORS = "perdure.schemas.errors."
_LABEL = re.compile("^(Whose fault|What to do): ", re.MULTILINE)


class Reference(griffe.Extension):
    """Turns paragraphs about parameters into lists, and adds code and status to errors."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """A function documents its own parameters; names that begin with `_` stand for what they are."""
        _list_parameters(func, {each.name for each in func.parameters})
        for each in func.parameters:
            if isinstance(each.annotation, griffe.ExprName) and each.annotation.name.startswith("_"):
                known = func.module.members.get(each.annotation.name)
                each.annotation = known.value if isinstance(known, griffe.Attribute) else each.annotation
            if str(each.default).startswith("_"):
                each.default = "..."

    def on_module(self, *, mod: griffe.Module, **_: Any) -> None:
        """The tree of errors stays as it is drawn."""
        if mod.path == _ERRORS.rstrip(".") and mod.docstring is not None:
            head, tree = mod.docstring.value.split("\n\n", 1)
            mod.docstring.value = f"{head}\n\n```text\n{tree}\n```"

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """A class documents those of its `__init__`."""
        init = cls.members.get("__init__")
        names = {each.name for each in init.parameters} if isinstance(init, griffe.Function) else set()
        _list_parameters(cls, names)
        if cls.path.startswith(_ERRORS) and cls.docstring is not None:
            text = _LABEL.sub(r"\n**\1:** ", cls.docstring.value)
            cls.docstring.value = f"{text}\n\n{facts_of(getattr(errors, cls.name))}"


def facts_of(cls: type[errors.PerdureError]) -> str:
    """The line about an error's code and its status over HTTP."""
    if cls in (errors.PerdureError, errors.CallerError, errors.OperatorError):
        return f"Code `{cls.code}`; only its subclasses are raised."
    if issubclass(cls, errors.ObjectError | errors.Refusal):
        outcome = REFUSED if cls is errors.Refusal else FAILED
        status = problem_of_reply(outcome, ErrorInfo(cls.code, ""))[0]
    elif issubclass(cls, errors.ConfigError | errors.DataDirError):
        return f"Code `{cls.code}`; at start, exit code {2 if cls is errors.ConfigError else 1}."
    else:
        status = problem_of(cls())[0]
    return f"Code `{cls.code}`, HTTP {status}."


def _list_parameters(documented: griffe.Function | griffe.Class, names: set[str]) -> None:
    if documented.docstring is not None:
        paragraphs = documented.docstring.value.split("\n\n")
        documented.docstring.value = "\n\n".join(as_list(each, names) for each in paragraphs)


def as_list(paragraph: str, names: set[str]) -> str:
    """A paragraph about parameters as a section that griffe knows; any other paragraph as it is."""
    first = _ITEM.match(paragraph)
    if first is None or not set(first[1].split(", ")) <= names:
        return paragraph
    lines = []
    for line in paragraph.split("\n"):
        item = _ITEM.match(line)
        if item is None:
            lines.append(f"        {line.strip()}")
        else:
            lines += [f"    {name}: {line[item.end() :]}" for name in item[1].split(", ")]
    return "\n".join(["Args:", *lines])
