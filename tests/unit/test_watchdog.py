"""The watchdog: whom it interrupts, and whom it leaves alone. On real time, as
signals are; each within a second.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context
from typing import Any

import pytest
import uvloop

from perdure.api.gateway import Gateway
from perdure.api.testing.world import story, world
from perdure.api.worker.outgoing import Outgoing
from perdure.api.worker.worker import Worker
from perdure.objects.durable import DurableObject, Env
from perdure.objects.http import Request, Response
from perdure.objects.state import current_turn
from perdure.streams.log.memory.broker import MemoryBroker
from perdure.streams.log.memory.log import MemoryLog
from perdure.streams.turns.inline_task import TaskLike, now, run_inline
from perdure.streams.turns.supervision.watchdog import Interrupted, Watchdog

STEP_S = 0.12  # far above what a busy machine takes from a process at a time
LOOPS = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
Main = Callable[[], Coroutine[Any, Any, None]]


class Turn(TaskLike, eq=False, weakref=True):
    """A turn of these tests: how it ended."""

    ended: asyncio.Future[tuple[Any, BaseException | None]]
    cut: BaseException | None = None


def step(handler: Coroutine[Any, Any, Any], word: int = 1) -> Turn:
    """Run a handler as an owner does."""
    turn, context = Turn(asyncio.get_running_loop().create_future()), Context()
    context.run(current_turn.set, turn)

    def done(turn: Turn, result: Any, error: BaseException | None) -> None:
        assert now()[0] == 0, "a turn that has ended is told to run"
        turn.ended.set_result((result, error))

    run_inline(asyncio.get_running_loop(), context, handler, turn, done, word)
    return turn


def watched(main: Main, loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
    async def watching() -> None:
        watchdog = Watchdog(step_s=STEP_S, hold_s=60)
        assert watchdog.start()
        try:
            async with asyncio.timeout(30):
                await main()
        finally:
            watchdog.stop()
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(watching())


def spin(seconds: float = 20) -> None:
    """Hold the thread; far longer than it is to last."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        pass


async def at_once() -> None:
    spin()


async def after_a_suspension() -> None:
    await asyncio.sleep(0)
    spin()


async def asleep() -> None:
    time.sleep(20)  # noqa: ASYNC251 - as a user may do


async def in_a_regular_expression() -> None:
    import re

    re.match(r"(a+)+$", "a" * 60 + "b")


async def in_a_child() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(after_a_suspension())


RUNAWAYS = [at_once, after_a_suspension, asleep, in_a_regular_expression]


@LOOPS
@pytest.mark.parametrize("handler", RUNAWAYS, ids=lambda handler: handler.__name__)
def test_a_handler_that_does_not_let_go_is_interrupted(
    loop: Callable[[], asyncio.AbstractEventLoop], handler: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Not before its time, and soon after it; the loop goes on."""

    async def main() -> None:
        began_s = time.monotonic()
        _, error = await step(handler()).ended
        assert isinstance(error, Interrupted), error
        assert time.monotonic() - began_s >= STEP_S

    watched(main, loop)


@LOOPS
def test_a_task_that_a_handler_started_is_interrupted(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """The loop steps it, not the owner; its group tells the handler."""

    async def main() -> None:
        _, error = await step(in_a_child()).ended
        assert isinstance(error, BaseExceptionGroup)
        assert isinstance(error.exceptions[0], Interrupted)

    watched(main, loop)


class Rings(DurableObject):
    """Its alarm holds on."""

    async def ring(self) -> None:
        await self.state.set_alarm(self.state.now)

    async def alarm(self) -> None:
        spin(3)


@story
async def test_an_alarm_that_does_not_let_go_is_interrupted() -> None:
    """It has failed, as by any error: nothing of it stands, and it is to ring again."""
    async with world(Rings, config=f"[limits]\nstep_s = {STEP_S}\n") as env:
        thing = env.Rings.get("a")
        await thing.ring()
        await env.advance(1)
        assert env.alarms(thing)["default"] > env.now
        await thing.ring()  # its object goes on


def test_a_worker_that_does_not_let_go_is_interrupted() -> None:
    """Its client is told by type; other requests go on."""

    async def fetch(request: Request, env: Any) -> Response:
        if request.path == "/spins":
            spin(3)
        return Response("well")

    async def main() -> None:
        log = MemoryLog(MemoryBroker(1, clock_ms=lambda: 0), "n")
        gateway = Gateway(log, node="n", deadline_s=30, clock_ms=lambda: 0)
        way = Outgoing(body_bytes=1, timeout_s=1)
        worker = Worker(fetch, Env({}), gateway, outgoing=way, new_uuid=lambda: "u", deadline_s=30)
        told = []
        for path in ("/spins", "/other"):
            nobody_leaves = asyncio.get_running_loop().create_future()
            told.append(await worker.answer(Request("GET", path), None, "", nobody_leaves))
        assert (told[0][0], b"the Worker failed: Runaway" in told[0][2]) == (500, True), told
        assert told[1][::2] == (200, b"well")

    watched(main)


def test_a_handler_that_holds_on_while_it_is_cancelled_is_interrupted() -> None:
    """Also when it was left behind."""
    held: list[str] = []

    async def holds_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            spin()
            held.append("to its end")

    async def main() -> None:
        turn = step(holds_on())
        await asyncio.sleep(0)
        turn.abandon()
        assert turn.task is not None
        await asyncio.wait([turn.task])

    watched(main)
    assert not held


@pytest.mark.parametrize("suspends", [False, True])
def test_many_short_steps_in_a_row_are_nobodys_fault(suspends: bool) -> None:
    """Together they take several times the bound, in one callback of the loop; none is interrupted."""

    async def short() -> str:
        if suspends:
            await asyncio.sleep(0)
        spin(STEP_S / 5)
        return "done"

    async def main() -> None:
        turns = [step(short(), word) for word in range(1, 21)]
        assert [await turn.ended for turn in turns] == [("done", None)] * len(turns)

    watched(main)


def test_children_that_share_a_round_of_the_loop_are_not_taken_for_one() -> None:
    """Twenty Tasks of one turn that are ready at once."""

    async def short() -> None:
        await asyncio.sleep(0)
        spin(STEP_S / 5)

    async def handler() -> str:
        await asyncio.gather(*(short() for _ in range(20)))
        return "done"

    async def main() -> None:
        assert await step(handler()).ended == ("done", None)

    watched(main)


def test_a_child_that_lets_go_again_and_again_is_not_interrupted() -> None:
    """One Task with many short steps, a round of the loop between them."""

    async def child() -> None:
        for _ in range(20):
            await asyncio.sleep(0)
            spin(STEP_S / 5)

    async def handler() -> str:
        await asyncio.create_task(child())
        return "done"

    async def main() -> None:
        assert await step(handler()).ended == ("done", None)

    watched(main)


def test_what_belongs_to_no_turn_is_left_alone() -> None:
    """The process itself may be busy."""
    to_its_end = []

    async def main() -> None:
        spin(STEP_S * 4)
        to_its_end.append(True)

    watched(main)
    assert to_its_end


@pytest.mark.parametrize("room", ["perdure.streams.state.tables", "perdure.api.gateway"])
def test_an_owners_own_code_is_never_interrupted(room: str) -> None:
    """Not even below a handler: what it has begun it ends; the handler is
    interrupted when it is back in its own.
    """
    scope: dict[str, Any] = {"__name__": room, "spin": spin, "ended": False}
    code = "def work():\n global ended\n spin(%s)\n ended = True" % (STEP_S * 4)
    exec(code, scope)  # noqa: S102 - a function that lives in that room

    async def handler() -> None:
        scope["work"]()
        spin()

    async def main() -> None:
        _, error = await step(handler()).ended
        assert isinstance(error, Interrupted)
        assert scope["ended"]

    watched(main)


def test_it_stays_off_where_signals_do_not_work() -> None:
    """In another thread, and where somebody has the signal already."""
    started: list[bool] = []

    async def main() -> None:
        watchdog = Watchdog(step_s=1, hold_s=10)
        started.append(watchdog.start())
        watchdog.stop()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    try:
        asyncio.run(main())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert started == [False, False]


@pytest.fixture(autouse=True)
def unraisable() -> Iterator[None]:
    """No interruption is lost in a place where nothing can be raised."""
    lost: list[Any] = []
    before, sys.unraisablehook = sys.unraisablehook, lost.append
    yield
    sys.unraisablehook = before
    assert lost == []
