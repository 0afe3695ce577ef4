"""Bad input and bad code: each gets a clear error, and the service goes on. One server for all."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from urllib.parse import quote

import pytest
from tests.acceptance.harness import Deployment, deploy, port_of
from tests.acceptance.wire import PATIENCE_S, Answer, Wire, ask
from tests.process import Server, run

DEADLINE_S = 0.6
KIB, MIB = 1024, 1024 * 1024


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return deploy(tmp_path_factory.mktemp("bad"), settings=f"deadline_s = {DEADLINE_S}\n")


@pytest.fixture(scope="module")
def server(deployment: Deployment) -> Iterator[Server]:
    """At the end of all that was done to it: it is ready, stops in order, and its state is its log's fold."""
    with deployment.serve() as server:
        yield server
        assert asyncio.run(ask(port_of(server), "GET", "/readyz")).status == 200
        assert server.stop() == 0
        assert "Traceback" not in server.stderr()
    kept = {each.name for each in deployment.data.iterdir()}
    assert kept == {"LOCK", "app.json", "log", "poison", "secret", "state"}
    assert {each.name for each in deployment.data.parent.iterdir()} == {"app", "data"}
    deployment.verify()


@pytest.fixture(scope="module", autouse=True)
def no_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[subprocess.CompletedProcess[str]]]:
    """A server that looks for a Kafka where none is; begun early, for it looks for 10 s."""
    path = tmp_path_factory.mktemp("kafka")
    folder = deploy(path, log="kafka://127.0.0.1:1").folder
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(run, "serve", str(folder), "--data", str(path / "data"), "--port", "0")


@pytest.fixture
def port(server: Server) -> Iterator[int]:
    """After each test another object answers as before."""
    port = port_of(server)
    before = asyncio.run(ask(port, "POST", "/objects/Counter/bystander/x")).json["count"]
    yield port
    assert asyncio.run(ask(port, "POST", "/objects/Counter/bystander/x")).json["count"] == before + 1


BAD_IDS = {
    "parent": "..",
    "parent, encoded": "%2e%2e",
    "slash, encoded": "a%2Fb",
    "way up, encoded": "..%2f..%2fetc%2fpasswd",
    "NUL": "a%00b",
    "CR LF": "a%0d%0aset-cookie:%20x",
    "newline": "%0a",
    "not UTF-8": "%ff%fe",
    "overlong slash": "%c0%af",
    "half a surrogate pair": "%ed%a0%80",
    "decomposed": quote("e\u0301"),
    "zero width": quote("a\u200bb"),
    "right to left": quote("a\u202eb"),
    "no-break space": quote("a\u00a0b"),
    "10 kB": "a" * 10_240,
    "513 bytes": "a" * 513,
    "empty": "",
}


@pytest.mark.parametrize("name", BAD_IDS.values(), ids=BAD_IDS.keys())
def test_a_name_that_is_not_canonical_is_refused(port: int, name: str) -> None:
    """400 with the rule that it breaks, by both doors; nothing is repaired and no file is named by it."""
    for path in f"/objects/Counter/{name}/x", f"/rpc/Counter/{name}/value":
        answer = asyncio.run(ask(port, "POST", path))
        assert (answer.status, answer.code) == (400, "bad-key"), answer
        assert answer.place is None, "it reached the log"
        assert len(answer.json["detail"]) < 500


def test_one_object_has_one_name(port: int) -> None:
    """Encodings of one name are one object, look-alikes are others, and nothing is decoded twice."""

    def add(name: str) -> int:
        answer = asyncio.run(ask(port, "POST", f"/objects/Counter/{name}/x"))
        assert answer.status == 200, answer
        count: int = answer.json["count"]
        return count

    assert [add("same"), add("%73ame"), add("%73%61%6d%65"), add("sam%65")] == [1, 2, 3, 4]
    others = [
        "Same",
        quote("s\u0430me"),
        quote("\uff53ame"),
        "same%20",
        "%2573ame",
        "same.",
        "same%5c..",
        "same;x",
    ]
    assert [add(each) for each in others] == [1] * len(others)
    assert [add(each) for each in ("%252f", quote("\u00e9"), quote("日本"), "a" * 512)] == [1] * 4
    assert add("same") == 5


def _deep(depth: int) -> bytes:
    return b'{"args": ' + b"[" * depth + b"]" * depth + b"}"


BAD_REQUESTS: dict[str, tuple[str, bytes, int, str]] = {
    "unknown class": ("POST /objects/Nope/a/x", b"", 404, "unknown-namespace"),
    "class that is no name": ("POST /objects/..%2f/a/x", b"", 400, "bad-key"),
    "unknown path": ("GET /nothing/here", b"", 404, "no-such-path"),
    "call by GET": ("GET /rpc/Counter/a/value", b"", 405, "method-not-allowed"),
    "no JSON": ("POST /rpc/Counter/a/increment", b"{nope", 400, "malformed-command"),
    "not UTF-8": ("POST /rpc/Counter/a/increment", b'{"args": ["\xff"]}', 400, "malformed-command"),
    "half a surrogate pair": (
        "POST /rpc/Counter/a/increment",
        b'{"args": ["\\ud800"]}',
        400,
        "malformed-command",
    ),
    "NaN": ("POST /rpc/Counter/a/increment", b'{"args": [NaN]}', 400, "malformed-command"),
    "infinite": ("POST /rpc/Counter/a/increment", b'{"args": [-Infinity]}', 400, "malformed-command"),
    "duplicate keys": (
        "POST /rpc/Counter/a/increment",
        b'{"args": [1], "args": [2]}',
        400,
        "malformed-command",
    ),
    "deep": ("POST /rpc/Counter/a/increment", _deep(100_000), 400, "malformed-command"),
    "no object": ("POST /rpc/Counter/a/increment", b"[1]", 422, "invalid-arguments"),
    "unknown part": ("POST /rpc/Counter/a/increment", b'{"arg": [1]}', 422, "invalid-arguments"),
    "args no array": ("POST /rpc/Counter/a/increment", b'{"args": 1}', 422, "invalid-arguments"),
    "kwargs no object": ("POST /rpc/Counter/a/increment", b'{"kwargs": []}', 422, "invalid-arguments"),
    "too many": ("POST /rpc/Counter/a/increment", b'{"args": [1, 2]}', 422, "invalid-arguments"),
    "wrong type": ("POST /rpc/Counter/a/increment", b'{"args": ["two"]}', 422, "invalid-arguments"),
    "wrong name": ("POST /rpc/Counter/a/increment", b'{"kwargs": {"with": 1}}', 422, "invalid-arguments"),
    "missing": ("POST /rpc/Trouble/a/typed", b"", 422, "invalid-arguments"),
    "unknown method": ("POST /rpc/Counter/a/decrement", b"", 404, "unknown-method"),
    "private method": ("POST /rpc/Trouble/a/_raises", b"", 404, "unknown-method"),
    "perdure's own": ("POST /rpc/Counter/a/fetch", b"", 404, "unknown-method"),
    "attribute": ("POST /rpc/Counter/a/state", b"", 404, "unknown-method"),
    "dunder": ("POST /rpc/Counter/a/__init__", b"", 404, "unknown-method"),
    "no method": ("POST /rpc/Counter/a/", b"", 404, "unknown-method"),
    "too large": ("POST /rpc/Counter/a/increment", b" " * (MIB + 1), 413, "too-large"),
    "too large a fetch": ("POST /objects/Counter/a/x", b" " * (MIB + 1), 413, "too-large"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS.keys())
def test_a_bad_request_gets_its_problem(port: int, name: str) -> None:
    """The right status, a stable type, a text that helps; the object is as it was."""
    request, body, status, code = BAD_REQUESTS[name]
    method, _, path = request.partition(" ")
    answer = asyncio.run(ask(port, method, path, body))
    assert (answer.status, answer.code) == (status, code), answer
    assert 10 < len(answer.json["detail"]) < 1000
    assert asyncio.run(ask(port, "GET", "/objects/Counter/a/x")).json == {"count": 0}


def test_a_huge_number_is_a_number_or_refused(port: int) -> None:
    """Up to a limit integers are exact; one of a million digits is a 4xx, at once."""
    answer = asyncio.run(ask(port, "POST", "/rpc/Counter/huge/increment", b'{"args": [%d]}' % 10**50))
    assert answer.json == {"result": 10**50}
    began = monotonic()
    answer = asyncio.run(
        ask(port, "POST", "/rpc/Counter/huge/increment", b'{"args": [1%s]}' % (b"0" * 1_000_000))
    )
    assert 400 <= answer.status < 500, answer
    assert monotonic() - began < 5
    assert asyncio.run(ask(port, "POST", "/rpc/Counter/huge/value")).json == {"result": 10**50}


def _peak_bytes(server: Server) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * KIB


def test_a_body_that_does_not_end_costs_no_memory(port: int, server: Server) -> None:
    """Bodies far over the limit are refused while they come, declared or not, and are not kept."""

    async def endless(declared: bool) -> Answer | None:
        head = "POST /objects/Counter/a/x HTTP/1.1\r\nhost: x\r\n"
        length = f"content-length: {10**12}" if declared else "transfer-encoding: chunked"
        chunk = b"x" * (256 * KIB)
        async with asyncio.timeout(PATIENCE_S), Wire(port) as wire:
            answered = asyncio.ensure_future(wire.answer())
            wire.send(f"{head}{length}\r\n\r\n".encode())
            try:
                for _ in range(160):  # 40 MiB
                    wire.send(chunk if declared else b"%x\r\n%s\r\n" % (len(chunk), chunk))
                    await wire.drain()
                    if answered.done():
                        break
                return await answered
            except ConnectionError:
                answered.cancel()
                return None  # ended before its answer could be read

    async def many() -> list[Answer | None]:
        return [await endless(declared) for declared in (True, False) * 4]

    before = _peak_bytes(server)
    answers = asyncio.run(many())
    assert any(answers), "no answer was seen at all"
    for answer in answers:
        assert answer is None or (answer.status, answer.code) == (413, "too-large"), answer
    assert _peak_bytes(server) - before < 32 * MIB


WRONG = [
    "raises",
    "nonsense",
    "none",
    "header",
    "status",
    "body",
    "unstorable",
    "exits",
    "recursion",
    "memory",
]
WRONG += ["cancelled", "base", "interrupts", "interrupts_later"]


@pytest.mark.parametrize("what", WRONG)
def test_a_handler_that_goes_wrong_leaves_no_trace(port: int, what: str) -> None:
    """500 with a type and the object named; what it had put is gone, and its next command runs."""
    answer = asyncio.run(ask(port, "POST", f"/objects/Trouble/{what}/{what}"))
    assert answer.status == 500, answer
    assert answer.code in ("handler-failed", "bad-reply", "unstorable-value"), answer
    assert f"Trouble/{what}" in answer.json["detail"] or answer.code == "bad-reply", answer
    assert answer.place is not None
    assert asyncio.run(ask(port, "GET", f"/objects/Trouble/{what}/")).json == {"count": 0}


@pytest.mark.parametrize("what", ["hangs", "stubborn"])
def test_a_handler_that_awaits_for_ever_ends_at_its_deadline(port: int, what: str) -> None:
    """503, nothing changed; meanwhile others are served, and behind it its own object goes on."""

    async def story() -> tuple[Answer, float, Answer]:
        async with asyncio.timeout(PATIENCE_S), Wire(port) as wire, Wire(port) as other:
            began = monotonic()
            hanging = asyncio.ensure_future(wire.ask("POST", f"/objects/Trouble/{what}/{what}"))
            for _ in range(20):
                assert (await other.ask("GET", "/objects/Counter/bystander/x")).status == 200
                assert not hanging.done()
            answer = await hanging
            took_s = monotonic() - began
            return answer, took_s, await other.ask("GET", f"/objects/Trouble/{what}/")

    answer, took_s, after = asyncio.run(story())
    assert (answer.status, answer.code) == (503, "expired"), answer
    assert answer.headers["retry-after"] == "1"
    assert (
        DEADLINE_S <= took_s < DEADLINE_S + 2
    )  # the stubborn one is given a second to heed its cancellation
    assert (after.status, after.json) == (200, {"count": 0})


def test_a_port_in_use_is_told(server: Server, tmp_path: Path) -> None:
    """Exit 1, the port and the remedy; the data of the second is not touched."""
    second = deploy(tmp_path)
    done = run("serve", str(second.folder), "--data", str(second.data), "--port", str(port_of(server)))
    assert done.returncode == 1
    assert f"port {port_of(server)} on 127.0.0.1 is in use" in done.stderr
    assert "--port" in done.stderr
    assert not second.data.exists()


def test_a_kafka_that_is_not_there_is_told(no_kafka: Future[subprocess.CompletedProcess[str]]) -> None:
    """Exit 1 when its patience is over: the address and what to do, no traceback."""
    done = no_kafka.result(PATIENCE_S)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("perdure: log-unreachable: ")
    assert "127.0.0.1:1" in line
