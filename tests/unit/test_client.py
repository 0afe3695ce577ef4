"""The client's decisions, step by step on a clock that the test moves; and its stubs, which ask nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from perdure import (
    CallerError,
    DurableObject,
    HandlerFailed,
    OutcomeUnknown,
    PerdureError,
    Refusal,
    Unavailable,
)
from perdure.api.client.answers import COMMAND, RawResponse, error_of
from perdure.api.client.attempts import LONGEST_S, Attempt, Lost, Policy, Wait, attempts, pause_s
from perdure.api.client.requests import Options, call_request, current_trace
from perdure.api.client.sockets import is_lost
from perdure.api.client.stubs import SyncStub
from perdure.api.problems import Problem, problem_of, problem_of_reply
from perdure.objects.http import Headers
from perdure.objects.rpc import methods_of
from perdure.schemas.errors import (
    Expired,
    Forbidden,
    InvalidArguments,
    KeyConflict,
    KeyReused,
    OverQuota,
    StorageFailed,
    Unauthenticated,
    Unreachable,
)
from perdure.schemas.replies import FAILED, REFUSED, ErrorInfo

OK = RawResponse(200, Headers(((COMMAND, "0:1"),)), b'{"result": 3}')
CUT = Lost(True, "cut")
NOBODY = Lost(False, "nobody")


def answer(told: Problem, *, command: bool = False) -> RawResponse:
    pairs = tuple((name.decode(), value.decode()) for name, value in told[1])
    return RawResponse(told[0], Headers(pairs + (((COMMAND, "0:1"),) if command else ())), told[2])


class Driven:
    """A call whose attempts end as told; waits move the clock."""

    def __init__(
        self, *came: RawResponse | Lost, timeout_s: float = 10.0, chance: float = 1.0, retry: bool = True
    ):
        self.now = 0.0
        self.waits: list[float] = []
        self.asks: list[float] = []
        self.came = list(came)
        self.policy = Policy(timeout_s, lambda: self.now, lambda: chance, retry)

    def run(self) -> RawResponse:
        steps = attempts("POST /x", self.policy)
        step = next(steps)
        while True:
            sent: RawResponse | Lost | None = None
            if isinstance(step, Wait):
                self.waits.append(step.seconds)
                self.now += step.seconds
            else:
                self.asks.append(step.timeout_s)
                sent = self.came.pop(0) if len(self.came) > 1 else self.came[0]
            try:
                step = steps.send(sent)
            except StopIteration as done:
                found: RawResponse = done.value
                return found


IN_FLIGHT = answer(problem_of(KeyConflict("busy")))
EXPIRED = answer(problem_of(Expired("late")))
UNKNOWN = answer(problem_of(OutcomeUnknown("who knows")))
QUOTA = answer(problem_of(OverQuota(retry_after_s=3)))


@pytest.mark.parametrize(
    "first", [CUT, NOBODY, IN_FLIGHT, EXPIRED, UNKNOWN, QUOTA, RawResponse(502, Headers(()), b"bad gateway")]
)
def test_what_a_key_makes_safe_is_asked_again(first: RawResponse | Lost) -> None:
    """Connection lost, 503, 504, 429, a key in flight, a proxy's 502."""
    driven = Driven(first, OK)
    assert driven.run() is OK
    assert len(driven.asks) == 2


@pytest.mark.parametrize("error", [InvalidArguments("x"), Forbidden("x"), KeyReused("x"), StorageFailed("x")])
def test_what_another_attempt_cannot_mend_is_raised_at_once(error: PerdureError) -> None:
    """As the class that it is, with its text."""
    driven = Driven(answer(problem_of(error)))
    with pytest.raises(type(error)) as caught:
        driven.run()
    assert (str(caught.value), len(driven.asks)) == (str(error), 1)


def test_who_lacks_a_token_is_told_how_to_give_one() -> None:
    """As a header, to the client, and to the commands; and is not asked again."""
    driven = Driven(answer(problem_of(Unauthenticated())))
    with pytest.raises(Unauthenticated) as caught:
        driven.run()
    for each in ("Authorization: Bearer ", "token=", "PERDURE_TOKEN"):
        assert each in str(caught.value)
    assert len(driven.asks) == 1


def test_pauses_grow_have_jitter_and_heed_retry_after() -> None:
    """Full jitter: chance times a doubled bound; on top of what the server asked for."""
    driven = Driven(NOBODY, NOBODY, NOBODY, QUOTA, OK, chance=0.5)
    driven.run()
    assert driven.waits == pytest.approx([0.05, 0.1, 0.2, 3.4])
    assert pause_s(500, 1.0) == LONGEST_S


def test_the_deadline_bounds_a_call() -> None:
    """No attempt gets more than is left, and nothing is waited for that comes too late."""
    driven = Driven(NOBODY, timeout_s=1.0)
    with pytest.raises(Unreachable, match="POST /x"):
        driven.run()
    assert driven.now < 1.0
    assert all(ask <= 1.0 for ask in driven.asks)
    assert driven.asks[-1] < driven.asks[0]
    driven = Driven(QUOTA, timeout_s=3.0)
    with pytest.raises(OverQuota):
        driven.run()
    assert driven.waits == []


@pytest.mark.parametrize("unknown", [CUT, UNKNOWN, IN_FLIGHT])
@pytest.mark.parametrize("after", [NOBODY, EXPIRED, answer(problem_of(Unauthenticated()))])
def test_what_may_be_done_does_not_become_not_done(
    unknown: RawResponse | Lost, after: RawResponse | Lost
) -> None:
    """Once lost on its way, a call that ends without its command's answer is unknown, and is named."""
    with pytest.raises(OutcomeUnknown, match="POST /x"):
        Driven(unknown, after, timeout_s=2).run()


def test_a_commands_own_answer_ends_the_doubt() -> None:
    """The same key brings the stored answer, an error too."""
    failed = answer(problem_of_reply(FAILED, ErrorInfo("handler-failed", "ValueError: x")), command=True)
    with pytest.raises(HandlerFailed, match="ValueError: x"):
        Driven(CUT, failed).run()


def test_without_retries_one_attempt_is_made() -> None:
    """What came of it is told as it is."""
    for came, error in ((NOBODY, Unreachable), (CUT, OutcomeUnknown), (EXPIRED, Expired)):
        driven = Driven(came, retry=False)
        with pytest.raises(error):
            driven.run()
        assert len(driven.asks) == 1
    driven = Driven(OK, timeout_s=100, retry=False)
    driven.run()
    assert driven.asks == [100], "it may take as long as the call"


def test_a_refusal_comes_as_it_was_raised() -> None:
    """Code and detail of its own, even a code that is a class's."""
    for code in ("sold-out", "handler-failed", "key-reused"):
        told = problem_of_reply(REFUSED, ErrorInfo(code, "no", {"left": 0}))
        error = error_of(answer(told, command=True))
        assert isinstance(error, Refusal)
        assert (error.code, str(error), error.detail) == (code, "no", {"left": 0})


def test_an_objects_own_error_response_is_no_error() -> None:
    """A 503 that an object answers is its word; one without a command came from something in between."""
    pairs = ((COMMAND, "0:1"),)
    assert error_of(RawResponse(503, Headers(pairs), b"mine")) is None
    assert type(error_of(RawResponse(503, Headers(()), b"proxy"))) is Unavailable
    assert type(error_of(RawResponse(418, Headers(()), b"proxy"))) is CallerError


class Counter(DurableObject):
    async def increment(self, by: int = 1) -> int:
        return by


def stub(sent: list[Any], key: str | None = None) -> SyncStub:
    options = Options(1.0, key)
    return SyncStub(
        "Counter/a", methods_of(Counter), options, lambda asking, *_: sent.append(asking), _no_socket
    )


def _no_socket(place: str, options: Options) -> NoReturn:
    raise AssertionError(f"{place} was not to be opened")


def test_a_method_that_is_not_there_is_found_at_once() -> None:
    """Near misses are named, and nothing is sent."""
    sent: list[Any] = []
    with pytest.raises(AttributeError, match=r"no method 'incremnt'.*did you mean: increment"):
        stub(sent).incremnt(1)
    with pytest.raises(AttributeError, match="underscore"):
        stub(sent)._hidden()
    with pytest.raises(
        InvalidArguments, match=r"increment\(\): argument by: Unable to serialize .* \(by: int\)"
    ):
        stub(sent).increment(object())
    with pytest.raises(InvalidArguments, match=r"increment\(\): argument bye: Unexpected .*\(it takes by\)"):
        stub(sent).increment(bye=1)
    assert sent == []


def test_each_call_has_a_key_of_its_own_or_the_one_given() -> None:
    """Two calls are two; the same given key makes them one."""
    sent: list[Any] = []
    for each in (stub(sent), stub(sent, "order-7")):
        each.increment(2)
        each.increment(by=2)
    keys = [asking.headers["idempotency-key"] for asking in sent]
    assert keys[0] != keys[1]
    assert keys[2:] == ["order-7", "order-7"]
    assert [json.loads(asking.body) for asking in sent[:2]] == [
        {"args": [2], "kwargs": {}},
        {"args": [], "kwargs": {"by": 2}},
    ]


def test_a_given_trace_is_sent_on() -> None:
    """And none, if nobody traces."""
    trace = f"00-{'1' * 32}-{'2' * 16}-01"
    assert call_request("Counter/a", "x", (), {}, Options(1.0, None, trace)).headers["traceparent"] == trace
    assert current_trace() is None


@pytest.mark.parametrize(
    ("code", "lost"),
    [(1000, False), (1001, True), (1008, False), (1011, False), (1012, True), (1013, True), (4000, False)],
)
def test_which_closes_are_a_loss(code: int, lost: bool) -> None:
    """The application's word is final."""
    assert is_lost(ConnectionClosedError(Close(code, ""), None)) is lost
    assert is_lost(ConnectionClosedError(None, None))


def test_the_client_loads_no_server() -> None:
    """Whoever only asks pays for no RocksDB and no HTTP server."""
    program = (
        "import sys, perdure; perdure.connect('http://x'); "
        "print([name for name in ('rocksdict', 'uvicorn', 'perdure.streams', 'perdure.api.door.http') if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_a_type_checker_sees_the_methods_of_a_class(tmp_path: Path) -> None:
    """A right call passes, a wrong argument and a wrong name do not."""
    sample = tmp_path / "sample.py"
    sample.write_text(
        "import perdure\n\n"
        "class Counter(perdure.DurableObject):\n"
        "    async def increment(self, by: int = 1) -> int:\n"
        "        return by\n\n"
        "async def main() -> None:\n"
        "    async with perdure.connect('http://x') as app:\n"
        "        counter = app.get(Counter, 'alice')\n"
        "        right: int = await counter.increment(2)\n"
        "        await counter.increment('two')\n"
        "        await counter.incremnt(2)\n"
        "        (await app.get('Counter', 'alice').fetch('GET')).json()\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml"), str(sample)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
    )
    wrong = [line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line]
    assert wrong == ["11", "12"], done.stdout


def test_an_ask_is_a_step() -> None:
    """The first step of a call is an attempt, which may last no longer than the call."""
    assert next(attempts("x", Policy(2.0, lambda: 0.0, lambda: 0.0))) == Attempt(2.0)
