"""`python -m bench.way [POST|GET] [--calls]`: the modules that one warm request passes, call by call.

A counter is served on the embedded log in this process. After some requests that warm it, a request is traced
from `data_received` until its response is written and its changes are folded, on the loop's thread and on the
thread that calls fsync.

Laws
- A module is entered when one of its functions is called from a function of another one.
- A return enters a module that was entered and left before; to end a function and be back in its caller is
  not one. So a small function that is called from five modules counts five times.
- The counts are of calls, not of time: they are the same on each machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import uvicorn
import uvloop
from examples.counter import Counter

from bench.errors import BenchError
from perdure.api import server
from perdure.api.node import Node
from perdure.objects.registry import Registry
from perdure.schemas.config import Config

ROOMS = ("api", "objects", "schemas", "streams")
ROOT = Path(__file__).parents[1]
WARM_REQUESTS = 40
TRACED_REQUESTS = 5  # the one with the fewest calls counts: into the others a timer fell
STARTED_LOOK_S = 0.01
REQUEST = b"%b /objects/Counter/a HTTP/1.1\r\nhost: a\r\n%b\r\n"


class Call(NamedTuple):
    """A call of one of perdure's functions. `depth`: how many of perdure's functions are on the stack."""

    module: str
    function: str
    caller: str  # its module; empty if the event loop or a library calls
    depth: int


class Tracer:
    """Records what begins and ends while `on`, on the threads that it was set for."""

    def __init__(self) -> None:
        self.on = False
        self.requests: list[list[Call]] = []
        self._events: list[tuple[int, str, CodeType]] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.on:  # nothing more here: what takes long would seem to be a slow turn
            self._events.append((threading.get_ident(), event, frame.f_code))

    def next(self) -> None:
        """A request is over: add its calls to `requests`, and stop."""
        self.on = False
        self.requests.append(self._calls())
        self._events = []

    def _calls(self) -> list[Call]:
        calls = []
        stacks: defaultdict[int, list[str]] = defaultdict(list)  # by thread: the modules of what runs
        for thread, event, code in self._events:
            module = module_of(code.co_filename)
            if not module or event not in ("call", "return"):
                continue
            stack = stacks[thread]
            if event == "call":
                calls.append(Call(module, code.co_qualname, stack[-1] if stack else "", len(stack)))
                stack.append(module)
            elif stack:  # empty: it began before the recording
                stack.pop()
        return calls


@cache
def module_of(path: str) -> str:
    """The path of a module of perdure below its repository; empty for code of others."""
    real = Path(path).resolve()
    known = real.is_relative_to(ROOT) and real.relative_to(ROOT).parts[0] in ROOMS
    return str(real.relative_to(ROOT)) if known else ""


def trace(method: str) -> list[Call]:
    """The calls of one warm request of that method to a counter on the embedded log."""
    tracer = Tracer()
    threading.setprofile(tracer)  # before the log starts its own
    sys.setprofile(tracer)
    try:
        with (
            tempfile.TemporaryDirectory() as data,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_trace(tracer, method.encode(), Path(data)))
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return min(tracer.requests, key=len)


async def _trace(tracer: Tracer, method: bytes, data: Path) -> None:
    config = Config(name="way", data_dir=data, port=0, partitions=1)
    async with _served(config) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(WARM_REQUESTS + TRACED_REQUESTS):
            tracer.on = number >= WARM_REQUESTS
            writer.write(REQUEST % (method, b"content-length: 0\r\n" if method == b"POST" else b""))
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise BenchError(f"the counter answered {head!r}")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0]))
            if tracer.on:
                tracer.next()
        writer.close()


@contextlib.asynccontextmanager
async def _served(config: Config) -> AsyncIterator[int]:
    """Serves a counter as `perdure serve` does; gives the port."""
    with contextlib.closing(server.bind(config)) as listener:
        async with Node(config, Registry.build({"Counter": Counter}, config)) as node:
            served = uvicorn.Server(server._settings(node, config, 1000))
            task = asyncio.ensure_future(served.serve(sockets=[listener]))
            while not served.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(STARTED_LOOK_S)
            yield listener.getsockname()[1]
            served.should_exit = True
            await task


def entries(calls: list[Call]) -> list[Call]:
    """The calls that enter a module: from another one, or from the event loop."""
    return [call for call in calls if call.caller != call.module]


def returns(calls: list[Call]) -> int:
    """How often a module was entered that had been entered and left before."""
    seen: set[str] = set()
    count, last = 0, ""
    for call in entries(calls):
        count += call.module in seen and call.module != last
        seen.add(call.module)
        last = call.module
    return count


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.way", description=__doc__)
    parser.add_argument("method", nargs="?", default="POST", choices=("POST", "GET"))
    parser.add_argument("--calls", action="store_true", help="print each call, not only the entered modules")
    options = parser.parse_args()
    calls = trace(options.method)
    for call in calls if options.calls else entries(calls):
        print(f"{'  ' * call.depth}{call.module}  {call.function}")
    modules = len({call.module for call in calls})
    print(f"{modules} modules, {returns(calls)} returns, {len(entries(calls))} entries, {len(calls)} calls")


if __name__ == "__main__":
    main()
