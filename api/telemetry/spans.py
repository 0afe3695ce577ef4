"""OpenTelemetry: a span for each request at a door, each turn, and each call of one object to another.

    POST /rpc/{namespace}/{name}/{method}            server: until the answer is durable
      Cart.buy  Cart/ann 3:17                        the turn: until its handler has ended
        call Stock                                   client: until the other object's answer is durable
          Stock.take  Stock/tea 1:9                  the other's turn

Laws
- Commands and `perdure.fetch` carry `traceparent`; a turn's sends and calls are its children.
- Names of spans are few: namespaces and existing methods. Names of objects are attributes of turns only, and
  no part of a request or an answer is in a span.
- An alarm runs in a trace of its own.

[test_tracing.py]
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from msgspec.structs import replace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from perdure.api.problems import Problem, problem_of_reply
from perdure.api.replies import PlacedReply, ReplyListener
from perdure.objects.turn import Outcome
from perdure.schemas.commands import ALARM, CALL, FETCH, Command
from perdure.schemas.errors import PerdureError
from perdure.schemas.keys import namespace_of
from perdure.schemas.replies import FAILED, PARKED, Reply
from perdure.schemas.statuses import STATUS, UNAVAILABLE_STATUS
from perdure.schemas.traces import Traceparent, parse_traceparent
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.tracing import CallFunction


def exporting(service: str | None) -> Spans:
    """The spans of this process, sent where the environment says.

    `service`: its name, None if the environment has one.
    """
    resource = Resource.create({} if service is None else {"service.name": service})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Spans(provider)


class Spans:
    """The tracer of one process; `close` sends the spans that are left."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("perdure")
        self._turns: WeakKeyDictionary[Turn, Span] = WeakKeyDictionary()  # turns that run

    def close(self) -> None:
        self._provider.shutdown()

    def _start(self, name: str, parent: str, kind: SpanKind, attributes: dict[str, str | int]) -> Span:
        return self._tracer.start_span(name, _context(parent), kind, attributes)

    # At the doors

    def trace_request(
        self, listener: ReplyListener, key: str, kind: str, method: str, traceparent: str
    ) -> tuple[ReplyListener, str]:
        """Start the span of a command that is about to be appended.

        listener: receives the reply.
        key: the object's key.
        kind: the command's kind.
        method: the HTTP method or the name of the object's method.
        traceparent: that of the request.

        Returns the listener to use in place of `listener`, which ends the span, and
        the command's `traceparent`.
        """
        namespace = namespace_of(key)
        attributes: dict[str, str | int] = {"perdure.namespace": namespace}
        name = f"websocket {namespace}"
        if kind in (FETCH, CALL):
            verb, way = (method, "/objects/") if kind == FETCH else ("POST", "/rpc/")
            route = f"{way}{namespace}/{{name}}" + ("" if kind == FETCH else "/{method}")
            attributes |= {"http.request.method": verb, "http.route": route}
            name = f"{verb} {route}"
        span = self._start(name, traceparent, SpanKind.SERVER, attributes)
        return _SpanListener(listener, span), _traceparent(span)

    async def worker(
        self, method: str, traceparent: str, answer: Callable[[str], Awaitable[Problem]]
    ) -> Problem:
        """Answer a request of the Worker by `answer(traceparent)`, within a span."""
        with self._around(
            f"{method} worker", traceparent, SpanKind.SERVER, {"http.request.method": method}
        ) as span:
            answered = await answer(_traceparent(span))
            _status(span, answered[0])
            return answered

    # In an owner, see `perdure.streams.turns.tracing`

    def began(self, turn: Turn) -> None:
        command = turn.command
        assert turn.activation is not None
        attributes: dict[str, str | int] = {
            "perdure.object": command.key,
            "perdure.partition": turn.activation.tables.partition,
            "perdure.offset": turn.offset,
        }
        if command.kind == ALARM:
            attributes["perdure.alarm"] = command.method
        span = self._start(_name_of(turn), command.traceparent, SpanKind.INTERNAL, attributes)
        self._turns[turn] = span
        turn.command = replace(command, traceparent=_traceparent(span))

    def ended(self, turn: Turn, outcome: Outcome) -> None:
        span = self._turns.pop(turn, None)
        if span is None:
            return
        reply = outcome.reply
        span.set_attribute("perdure.outcome", reply.outcome)
        span.set_attribute("perdure.entry", outcome.entry)
        _of_reply(span, reply)
        span.end()

    async def calling(self, turn: Turn, command: Command, ask: CallFunction) -> Reply:
        name = f"call {namespace_of(command.key)}"
        attributes: dict[str, str | int] = {"perdure.callee": command.key}
        with self._around(name, turn.command.traceparent, SpanKind.CLIENT, attributes) as span:
            reply = await ask(turn, replace(command, traceparent=_traceparent(span)))
            _of_reply(span, reply)
            return reply

    @contextmanager
    def _around(
        self, name: str, parent: str, kind: SpanKind, attributes: dict[str, str | int]
    ) -> Iterator[Span]:
        span = self._start(name, parent, kind, attributes)
        try:
            yield span
        except BaseException as error:
            _failed(span, _code_of(error))
            raise
        finally:
            span.end()


class _SpanListener:
    """A reply listener that ends the span of a command, and passes the answer on."""

    __slots__ = ("_listener", "_span")

    def __init__(self, listener: ReplyListener, span: Span) -> None:
        self._listener = listener
        self._span = span

    def answered(self, answer: PlacedReply) -> None:
        reply, span = answer.reply, self._span
        span.set_attribute("perdure.command", f"{answer.partition}:{answer.offset}")
        if reply.error is None:
            _status(span, reply.status)
        else:
            _status(span, problem_of_reply(reply.outcome, reply.error)[0], reply.error.code)
        span.end()
        self._listener.answered(answer)

    def failed(self, error: BaseException) -> None:
        code = _code_of(error)
        _status(self._span, STATUS.get(code, UNAVAILABLE_STATUS), code)
        self._span.end()
        self._listener.failed(error)


def _name_of(turn: Turn) -> str:
    command, activation = turn.command, turn.activation
    assert activation is not None
    what = command.kind
    if what == CALL and command.method in activation.kind.methods:
        what = command.method  # an existing method: a client may call any name
    return f"{namespace_of(command.key)}.{what}"


def _status(span: Span, status: int, code: str = "") -> None:
    span.set_attribute("http.response.status_code", status)
    if code:
        span.set_attribute("error.type", code)
    if status >= 500:
        span.set_status(StatusCode.ERROR, code)


def _of_reply(span: Span, reply: Reply) -> None:
    if reply.error is not None and reply.outcome in (FAILED, PARKED):
        _failed(span, reply.error.code)
    elif reply.error is not None:
        span.set_attribute("error.type", reply.error.code)


def _code_of(error: BaseException) -> str:
    return error.code if isinstance(error, PerdureError) else type(error).__name__


def _failed(span: Span, code: str) -> None:
    span.set_attribute("error.type", code)
    span.set_status(StatusCode.ERROR, code)


def _context(traceparent: str) -> Context:
    """A context that makes a span the child of `traceparent`, independent of the process's own context."""
    parent = parse_traceparent(traceparent) if traceparent else None
    if parent is None:
        return Context()
    ids: dict[str, Any] = {"trace_id": int(parent.trace_id, 16), "span_id": int(parent.span_id, 16)}
    context = SpanContext(**ids, is_remote=True, trace_flags=TraceFlags(parent.flags))
    return set_span_in_context(NonRecordingSpan(context), Context())


def _traceparent(span: Span) -> str:
    context = span.get_span_context()
    return str(Traceparent(f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags)))
