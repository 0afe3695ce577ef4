"""The fields of a log line about a turn: its object, its place on the log, its trace."""

from __future__ import annotations

from perdure.schemas.traces import parse_traceparent
from perdure.streams.turns.activation import Turn


def turn_fields(turn: Turn) -> dict[str, str]:
    """Return `object`, `offset` (`partition:offset`), and `trace` if the command carries one."""
    fields = {"object": turn.command.key}
    if turn.activation is not None:
        fields["offset"] = f"{turn.activation.tables.partition}:{turn.offset}"
    if trace := of_trace(turn.command.traceparent):
        fields |= trace
    return fields


def of_trace(traceparent: str) -> dict[str, str]:
    """Return the `trace` field; empty if `traceparent` is not valid."""
    parent = parse_traceparent(traceparent) if traceparent else None
    return {} if parent is None else {"trace": parent.trace_id}
