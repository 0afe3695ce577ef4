"""What a log line says of the command that it concerns: which object, where on the log, in which trace."""

from __future__ import annotations

from perdure.schemas.traces import parse_traceparent
from perdure.streams.turns.activation import Turn


def turn_fields(turn: Turn) -> dict[str, str]:
    """`object`, `offset` (`partition:offset`), and `trace` if whoever asked has told one."""
    told = {"object": turn.command.key}
    if turn.resident is not None:
        told["offset"] = f"{turn.resident.tables.partition}:{turn.offset}"
    if trace := of_trace(turn.command.traceparent):
        told |= trace
    return told


def of_trace(traceparent: str) -> dict[str, str]:
    """`trace`, if it is one."""
    parent = parse_traceparent(traceparent) if traceparent else None
    return {} if parent is None else {"trace": parent.trace_id}
