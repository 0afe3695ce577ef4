"""Traces of a real server, as a collector receives them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.process import serve

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
APP = """
import sys
from datetime import timedelta

from perdure import DurableObject, Refusal, Request, Response


class Stock(DurableObject):
    async def take(self, secret: str) -> int:
        if secret == "none":
            raise Refusal("sold out", code="sold-out")
        await self.state.put("left", 1)
        return 1


class Ledger(DurableObject):
    async def note(self, what: str) -> None:
        await self.state.put("noted", what)


class Cart(DurableObject):
    async def buy(self, secret: str) -> str:
        await self.env.Stock.get("tea").take(secret)
        self.env.Ledger.get("all").send.note(secret)
        return str("opentelemetry" in sys.modules)

    async def break_it(self) -> None:
        raise ValueError("broken by hunter2")

    async def remind(self) -> None:
        await self.state.set_alarm(timedelta(seconds=0))

    async def alarm(self) -> None:
        await self.state.put("rang", True)

    async def rang(self) -> bool:
        return await self.state.get("rang", False)
"""
WORKER = """

async def fetch(request: Request, env) -> Response:
    return Response(await env.Cart.get("ann").buy("hunter2"))
"""


class Received(NamedTuple):
    """A span as the collector has it."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    failed: bool
    attributes: dict[str, Any]
    service: str


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.bodies: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> list[Received]:
        found = []
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    found += [_received(span, service["service.name"]) for span in scope.spans]
        return found


class _Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _received(span: Any, service: str) -> Received:
    values = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
    return Received(span.name, *ids, span.kind, span.status.code == 2, values, service)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def deployed(tmp_path: Path, text: str = APP) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "perdure.toml").write_text('name = "shop"\nmain = "app.py"\n')
    (tmp_path / "shop" / "app.py").write_text(text)
    return tmp_path / "shop"


def test_a_trace_goes_from_the_door_through_calls_and_sends(collector: Collector, tmp_path: Path) -> None:
    """One tree under the client's span, each span with what it concerns and nothing of what was said."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with serve(deployed(tmp_path), tmp_path / "data", environ=environ) as server:
        for secret, status in (("hunter2", 200), ("none", 409)):
            url = f"{server.url}/rpc/Cart/ann/buy"
            answer = httpx.post(url, json={"args": [secret]}, headers=PARENT)
            assert answer.status_code == status
            if status == 200:
                command = answer.headers["perdure-command"]
        assert httpx.post(f"{server.url}/rpc/Cart/ann/break_it").status_code == 500
        assert server.stop() == 0
    spans = collector.spans()
    assert {span.service for span in spans} == {"shop"}
    byname: dict[str, list[Received]] = {}
    for span in spans:
        byname.setdefault(span.name, []).append(span)
    door, turn, call, take, note = (
        byname[name][0]
        for name in ("POST /rpc/Cart/{name}/{method}", "Cart.buy", "call Stock", "Stock.take", "Ledger.note")
    )
    assert {each.trace for each in (door, turn, call, take, note)} == {TRACE}
    assert [door.parent, turn.parent, call.parent, take.parent, note.parent] == [
        "00f067aa0ba902b7",
        door.id,
        turn.id,
        call.id,
        turn.id,
    ]
    assert door.attributes == {
        "perdure.namespace": "Cart",
        "http.request.method": "POST",
        "http.route": "/rpc/Cart/{name}/{method}",
        "http.response.status_code": 200,
        "perdure.command": command,
    }
    partition, offset = map(int, command.split(":"))
    assert turn.attributes == {
        "perdure.object": "Cart/ann",
        "perdure.partition": partition,
        "perdure.offset": offset,
        "perdure.outcome": "ok",
        "perdure.entry": True,
    }
    assert (call.attributes, call.failed, take.failed) == ({"perdure.callee": "Stock/tea"}, False, False)
    refused = byname["Stock.take"][1]
    assert (refused.attributes["error.type"], refused.failed) == ("sold-out", False)
    broken = byname["Cart.break_it"][0]
    assert (broken.failed, broken.attributes["error.type"]) == (True, "handler-failed")
    assert broken.trace != TRACE
    assert not any(b"hunter2" in body for body in collector.bodies)


def test_alarms_and_the_worker_are_traced(collector: Collector, tmp_path: Path) -> None:
    """An alarm rings in a trace of its own; what a Worker asks is under its request."""
    app = deployed(tmp_path, APP + WORKER)
    (app / "perdure.toml").write_text('name = "shop"\nmain = "app.py"\nexpose = true\n')
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "other"}
    with serve(app, tmp_path / "data", environ=environ) as server:
        assert httpx.get(f"{server.url}/anything", headers=PARENT).text == "True"
        httpx.post(f"{server.url}/rpc/Cart/bob/remind")
        while httpx.post(f"{server.url}/rpc/Cart/bob/rang").json() != {"result": True}:
            pass
        assert server.stop() == 0
    spans = {span.name: span for span in collector.spans()}
    worker, door = spans["GET worker"], spans["POST /rpc/Cart/{name}/{method}"]
    (buying,) = [span for span in collector.spans() if span.id == spans["Cart.buy"].parent]
    assert (worker.trace, buying.trace, buying.parent) == (TRACE, TRACE, worker.id)
    assert worker.attributes["http.response.status_code"] == 200
    assert spans["Cart.alarm"].attributes["perdure.object"] == "Cart/bob"
    assert (spans["Cart.alarm"].parent, door.service) == ("", "other")


def test_without_a_collector_nothing_of_it_is_loaded(tmp_path: Path) -> None:
    """Nor when it is turned off in one of OpenTelemetry's own ways."""
    off = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}
    app = deployed(tmp_path)
    for environ in ({}, off):
        with serve(app, tmp_path / "data", environ=environ) as server:
            answer = httpx.post(f"{server.url}/rpc/Cart/ann/buy", json={"args": ["x"]})
            assert answer.json() == {"result": "False"}
            assert server.stop() == 0


def test_a_missing_extra_is_told_and_the_server_serves(tmp_path: Path) -> None:
    """The environment may be meant for others: a warning names what to install."""
    (tmp_path / "path" / "opentelemetry").mkdir(parents=True)
    (tmp_path / "path" / "opentelemetry" / "__init__.py").write_text("raise ImportError('not there')\n")
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(tmp_path / "path")}
    with serve(deployed(tmp_path), tmp_path / "data", environ=environ) as server:
        assert httpx.post(f"{server.url}/rpc/Cart/ann/buy", json={"args": ["x"]}).status_code == 200
        assert server.stop() == 0
        lines = map(json.loads, server.stderr().splitlines())
        (line,) = [each for each in lines if each["level"] != "info"]
    assert "pip install 'opentelemetry-sdk" in line["event"]
