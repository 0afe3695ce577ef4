"""Events of WebSockets that no gateway sends, and the removal of closed sockets.

`SocketEvents` appends the close events of sockets whose gateway or instance is gone, until the log has each.

Laws [test_gateway_watch.py, test_sockets.py]
- A socket's row is removed by the turn of its close, whatever the handler does.
- An event that finds no row of its socket does nothing, so a repeated event does no harm.
- An event that the log refuses, or may not have, is appended again in the same epoch, after a growing pause.
  At most `AT_ONCE` events of a partition are in flight.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

import structlog

from perdure.objects.overlay import Overlay
from perdure.schemas.backoff import Backoff
from perdure.schemas.commands import NOBODY, SOCKET, Command, sealed_record
from perdure.schemas.effects import SocketChange
from perdure.schemas.errors import PerdureError
from perdure.schemas.replies import Pairs
from perdure.schemas.sockets import ABNORMAL, CLOSED, upgrade_of
from perdure.streams.log.base import Record, Topic
from perdure.streams.turns.ports import Transport

AT_ONCE = 500
RETRY_S = (0.5, 5.0)  # first and longest pause before an event that did not arrive is appended again
LOST: Pairs = (("code", str(ABNORMAL)), ("clean", "0"))

_logger = structlog.get_logger(__name__)


def is_from_ended_gateway(transport: Transport, command: Command) -> bool:
    """True if it is an upgrade whose gateway is known to have ended: its socket would never be closed."""
    upgrade = upgrade_of(command)
    return upgrade is not None and transport.log.exclusive and not transport.ingress.holds(upgrade[1])


def removal(command: Command) -> Overlay | None:
    """Return what a turn commits although its handler failed: the removal of a
    closed socket's row; None: nothing.
    """
    if command.method != CLOSED:
        return None
    overlay = Overlay()
    overlay.effect().sockets[command.path] = SocketChange(command.path, "")
    return overlay


class _Event(NamedTuple):
    """`method` is CLOSED, for a socket whose gateway is gone, or GONE, for one
    whose listening instance is.
    """

    key: str
    id: str
    method: str


class SocketEvents:
    """The events of sockets that are gone, for the objects of one partition:
    appended until the log has each.
    """

    def __init__(self, transport: Transport, partition: int) -> None:
        self._transport = transport
        self._partition = partition
        self._epoch = 0
        self._known: set[_Event] = set()  # those that wait or are under way
        self._waiting: deque[_Event] = deque()
        self._under_way = 0
        self._backoff = Backoff(*RETRY_S, transport.random)
        self._again: asyncio.TimerHandle | None = None  # when the next attempt begins, after one that failed
        self._room = asyncio.Event()
        self._room.set()

    def notify(self, key: str, id_: str, method: str) -> None:
        """Append the event; one that waits or is under way already is not appended twice."""
        event = _Event(key, id_, method)
        if event not in self._known:
            self._known.add(event)
            self._waiting.append(event)
            self._proceed()

    async def room(self) -> None:
        """Wait until fewer than `AT_ONCE` events wait, or the epoch ends."""
        await self._room.wait()

    def end(self) -> None:
        """Forget all events: the epoch is over. The next one finds again what is not on the log."""
        self._epoch += 1
        self._known.clear()
        self._waiting.clear()
        self._under_way = 0
        self._backoff.reset()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._room.set()

    def _proceed(self) -> None:
        while self._waiting and self._under_way < AT_ONCE and self._again is None:
            self._append(self._waiting.popleft())
        if len(self._waiting) < AT_ONCE:
            self._room.set()
        else:
            self._room.clear()

    def _append(self, event: _Event) -> None:
        key, id_, method = event
        lost = method == CLOSED
        headers, body = (LOST, b"the gateway is gone") if lost else ((), b"")
        command = Command(key, SOCKET, method, id_, headers, body, f"{method}:{id_}", NOBODY)
        epoch = self._epoch
        self._under_way += 1

        def appended(error: BaseException | None) -> None:
            if epoch == self._epoch:
                self._appended(event, error)

        record = Record(*sealed_record(command, self._transport.seal))
        self._transport.log.append(Topic.COMMANDS, self._partition, record, command).when_durable(appended)

    def _appended(self, event: _Event, error: BaseException | None) -> None:
        self._under_way -= 1
        if error is None:
            self._known.discard(event)
            if self._again is None:
                self._backoff.reset()
            else:  # there is room again
                self._again.cancel()
                self._again = None
            self._proceed()
        elif isinstance(error, PerdureError):
            # refused, or unknown: a second one finds no row and does nothing
            self._waiting.append(event)
            self._pause(error)
        else:
            raise error

    def _pause(self, error: PerdureError) -> None:
        if self._again is not None:
            return
        pause_s = self._backoff.failed()
        if self._backoff.worth_logging:
            _logger.warning(
                "events of sockets that are gone could not be appended, and are appended again",
                partition=self._partition,
                events=len(self._known),
                attempts=self._backoff.attempts,
                reason=str(error),
            )
        self._again = asyncio.get_running_loop().call_later(pause_s, self._try_again)

    def _try_again(self) -> None:
        self._again = None
        self._proceed()
