"""What perdure uses of asyncio's and uvicorn's insides is there, on the Python and
with the packages that run this.
"""

from __future__ import annotations

import asyncio
import inspect
import sys

import pytest
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl

from perdure.api.protocol.fast_path import FastPathProtocol
from perdure.api.protocol.http import HttpProtocol
from perdure.streams.virtual_time import VirtualLoop


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="3.12 has eager tasks")
def test_asyncio_lets_a_stand_in_be_the_current_task() -> None:
    """3.11: `_enter_task` and `_leave_task` take any object; a Task tells what it
    waits for, and whether it is cancelled.
    """
    from asyncio.tasks import _current_tasks, _enter_task, _leave_task  # type: ignore[attr-defined]

    async def main() -> None:
        loop, stand_in, me = asyncio.get_running_loop(), object(), asyncio.current_task()
        assert me is not None
        assert _current_tasks.get(loop) is me
        _leave_task(loop, me)
        _enter_task(loop, stand_in)  # type: ignore[arg-type]  # on purpose
        assert asyncio.current_task() is stand_in  # type: ignore[comparison-overlap]  # as above
        _leave_task(loop, stand_in)  # type: ignore[arg-type]  # as above
        _enter_task(loop, me)
        assert (me._fut_waiter, me._must_cancel) == (None, False)  # type: ignore[attr-defined]  # of the C Task

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.12 has eager tasks")
def test_asyncio_has_eager_tasks() -> None:
    """3.12 and newer: a Task runs its first step where it is made, and is the
    current one; nothing else is private.
    """
    found: list[object] = []

    async def step() -> int:
        found.append(asyncio.current_task())
        return 5

    async def main() -> None:
        me = asyncio.current_task()
        task = asyncio.Task(step(), loop=asyncio.get_running_loop(), eager_start=True)  # type: ignore[call-arg,unused-ignore]  # 3.12
        assert (task.done(), task.result(), found, asyncio.current_task()) == (True, 5, [task], me)

    asyncio.run(main())


def test_the_virtual_loop_overrides_what_asyncio_asks_to_wait() -> None:
    """`BaseEventLoop` waits by `_selector.select`, hands what it found to
    `_process_events`, and wakes by `_write_to_self`.
    """
    run_once = inspect.getsource(asyncio.BaseEventLoop._run_once)  # type: ignore[attr-defined]  # private
    assert "self._selector.select(timeout)" in run_once
    assert "self._process_events(event_list)" in run_once
    assert "_write_to_self" in inspect.getsource(asyncio.BaseEventLoop.call_soon_threadsafe)
    assert {"_process_events", "_write_to_self"} <= vars(VirtualLoop).keys()


def test_uvicorn_keeps_what_our_protocol_stands_on() -> None:
    """Of its HTTP protocol: attributes that are set, and methods that are called or overridden."""
    protocol = httptools_impl.HttpToolsProtocol
    made = inspect.getsource(protocol.__init__)
    for name in (
        "cycle",
        "pipeline",
        "flow",
        "transport",
        "timeout_keep_alive_task",
        "ws_protocol_class",
        "headers",
    ):
        assert f"self.{name}" in made, name
    methods = (
        "_should_upgrade",
        "_unset_keepalive_if_required",
        "connection_lost",
        "connection_made",
        "data_received",
        "handle_websocket_upgrade",
        "on_body",
        "on_headers_complete",
        "on_message_complete",
        "on_response_complete",
        "send_400_response",
        "timeout_keep_alive_handler",
    )
    assert [name for name in methods if not callable(getattr(protocol, name, None))] == []
    assert {"pause_reading", "resume_reading"} <= {*dir(FlowControl)}
    assert issubclass(FastPathProtocol, HttpProtocol)
    assert issubclass(HttpProtocol, protocol)
