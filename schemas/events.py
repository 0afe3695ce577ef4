"""The `[events]` table of a configuration: which method a CloudEvent of a type calls, and with what."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from perdure.schemas.foreign import EventRule
from perdure.schemas.section import Section


def _method(name: str) -> str:
    if not name.isidentifier() or name.startswith("_"):
        raise ValueError(
            f'"{name}" cannot name a method that is called; use one of the class, such as "increment"'
        )
    return name


class EventMethod(Section):
    """The method that a CloudEvent calls."""

    method: Annotated[str, AfterValidator(_method)]
    data: Literal["argument", "arguments", "event"] = "argument"
    """The method gets: the event's data as its argument, its members as named arguments, or the
    whole event.
    """

    @property
    def rule(self) -> EventRule:
        """The same as a rule for records."""
        return EventRule(self.method, self.data)


def _by_name(value: Any) -> Any:
    """`"type" = "method"` is short for a table with a method."""
    if not isinstance(value, dict):
        return value
    return {kind: {"method": each} if isinstance(each, str) else each for kind, each in value.items()}


Events = Annotated[dict[str, EventMethod], BeforeValidator(_by_name)]
