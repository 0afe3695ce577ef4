"""The calls that partitions know of: those of this process, and those that other nodes serve.

A turn that may have run before is compared with the calls it made then (reruns.py). A partition of another
node is queried by a signed record in its commands, which its owner answers when it takes the record: so every
call that lay before it on the log is known there. The answer waits for durability like every answer, so a
fenced owner gives none.

Laws [test_reruns_elsewhere.py]
- A query changes nothing: it is only marked as done, and runs in no object.
- Queries to one partition are batched: one record is in flight to each, with all roots that wait.
- A partition that has not answered within `BOUND_S` is left out, and not queried for `SILENT_S`: the turn is
  compared without it, with a line in the log. One partition that is down delays no other for longer.
- There are no queries where all partitions are served by this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from perdure.schemas.admin import CALLS_OF
from perdure.schemas.calls import CallKey, Root
from perdure.schemas.commands import ADMIN, Command, payload_hash, sealed_record
from perdure.schemas.errors import MalformedCommand, OperatorError, OutcomeUnknown, Unavailable
from perdure.schemas.keys import key_in, namespace_of
from perdure.schemas.replies import OK, UNAVAILABLE, Reply
from perdure.streams.log.base import Record, Topic
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.commit import summary_of
from perdure.streams.turns.pending_calls import Call

if TYPE_CHECKING:
    from perdure.streams.state.tables import Tables
    from perdure.streams.turns.keys_in_flight import KeysInFlight
    from perdure.streams.turns.ports import Transport

BOUND_S = 5.0  # a partition of another node has to answer within it
SILENT_S = 30.0  # a partition that has not is not queried for so long
ROOTS = 500  # in one record at most
AGAIN_S = 0.1  # after a partition that just begins has said so
_logger = structlog.get_logger(__name__)
_encode = msgspec.msgpack.Encoder().encode


class Made(NamedTuple):
    """A call, for people; `payload_hash` of what it asked, empty if that is not known."""

    key: str
    summary: str
    payload_hash: bytes = b""

    def __str__(self) -> str:
        hashed = f" ({self.payload_hash.hex()[:8]})" if self.payload_hash else ""
        return f"{self.summary} of {self.key}{hashed}" if self.summary else f"a call of {self.key}"


def made_of(command: Command) -> Made:
    """A call, as its command says it."""
    return Made(command.key, summary_of(command), payload_hash(command))


class Earlier(msgspec.Struct, array_like=True, frozen=True):
    """The calls with one root that a partition knows. `by_order`: those made before
    calls were known by content.
    """

    calls: tuple[tuple[CallKey, Made], ...] = ()
    by_order: tuple[Made, ...] = ()


class Question(msgspec.Struct, array_like=True, frozen=True):
    """The body of the record. `places`: (partition, first, end) of its commands
    whose calls are wanted; or None.
    """

    roots: tuple[Root, ...] = ()
    places: tuple[int, int, int] | None = None


class KnownCallsAnswer(msgspec.Struct, array_like=True, frozen=True):
    """The answer to a `Question`: what is known of each root, and the places that calls hang on."""

    earlier: tuple[Earlier, ...] = ()
    places: tuple[int, ...] = ()


_question = msgspec.msgpack.Decoder(Question).decode
_answer = msgspec.msgpack.Decoder(KnownCallsAnswer).decode


class KnownCalls:
    """The calls that one partition of this process knows of: those that were
    answered, and those in flight.
    """

    def __init__(self, tables: Tables, flying: KeysInFlight) -> None:
        self._tables = tables
        self._flying = flying

    def reply_to(self, key: CallKey) -> Reply | None:
        """What that call was answered."""
        answered = self._tables.answered_calls.get(key)
        return None if answered is None or answered.reply.outcome == UNAVAILABLE else answered.reply

    def earlier(self, root: Root) -> Earlier:
        """The calls with this root."""
        calls = {
            key: Made(each.key, each.summary, each.payload_hash)
            for key, each in self._tables.answered_calls.of_root(root)
        }
        by_order: dict[int, Made] = {}
        if not root.parent:
            rows = self._tables.answered_calls.by_order(root.partition, root.offset)
            by_order = {n: Made(each.key, each.summary, each.payload_hash) for n, each in rows}
        for key, spending, waiting in self._flying.calls():
            if key.root != root:
                continue
            if key.content:
                calls[key] = made_of(waiting.command) if isinstance(waiting, Turn) else Made(spending[0], "")
            elif isinstance(waiting, Turn):
                by_order[key.n] = made_of(waiting.command)
        return Earlier(tuple(calls.items()), tuple(by_order.values()))

    def places(self, partition: int) -> set[int]:
        """The offsets of that partition's commands that calls hang on."""
        flying = {key.offset for key, _, _ in self._flying.calls() if key.partition == partition}
        return flying | self._tables.answered_calls.places(partition)

    def answer(self, body: bytes) -> Reply:
        """The reply to a `Question`. Raises `MalformedCommand`."""
        try:
            question = _question(body)
        except msgspec.DecodeError as error:
            raise MalformedCommand(f"the body of a question for calls: {error}") from error
        places: tuple[int, ...] = ()
        if question.places is not None:
            partition, first, end = question.places
            places = tuple(sorted(each for each in self.places(partition) if first <= each < end))
        return Reply(OK, 200, (), _encode(KnownCallsAnswer(tuple(map(self.earlier, question.roots)), places)))


class _Queue:
    """Questions to one partition that wait, and whether one is under way."""

    __slots__ = ("busy", "waiting")

    def __init__(self) -> None:
        self.busy = False
        self.waiting: list[tuple[Root, asyncio.Future[Earlier | None]]] = []


class RemoteCalls:
    """The calls known to partitions of other nodes, as one partition's turns query them."""

    def __init__(
        self, transport: Transport, partition: int, spawn: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._transport = transport
        self._partition = partition
        self._spawn = spawn
        self._queues: dict[int, _Queue] = {}
        self._silent: dict[int, float] = {}  # partition -> the loop's time until which it is not asked

    def begin(self) -> None:
        """Start from scratch: an epoch begins."""
        self._queues.clear()
        self._silent.clear()

    def partitions(self) -> list[int]:
        """Return the partitions that another node serves, or should serve."""
        log, peers = self._transport.log, self._transport.pending_calls.peers
        if log.exclusive:
            return []
        return [p for p in range(log.partitions) if (peer := peers.get(p)) is None or peer.elsewhere()]

    def query(self, turn: Turn, root: Root) -> dict[int, asyncio.Future[Earlier | None]]:
        """Return, for each of them, what it knows of the calls with this root; None: it did not answer."""
        loop = asyncio.get_running_loop()
        calls: dict[int, asyncio.Future[Earlier | None]] = {}
        for partition in self.partitions():
            future = calls[partition] = loop.create_future()
            queue = self._queues.setdefault(partition, _Queue())
            queue.waiting.append((root, future))
            if not queue.busy:
                queue.busy = True
                self._spawn(self._serve(queue, partition, turn))
        return calls

    async def places(self, turn: Turn, first: int, end: int) -> set[int] | None:
        """The commands of this partition with first <= offset < end that calls
        there hang on; None: not all answered.
        """
        question = Question(places=(self._partition, first, end))
        answers = await asyncio.gather(*(self._query(turn, p, question) for p in self.partitions()))
        calls: set[int] = set()
        for answer in answers:
            if answer is None:
                return None
            calls.update(answer.places)
        return calls

    async def _serve(self, queue: _Queue, partition: int, turn: Turn) -> None:
        try:
            while queue.waiting:
                batch, queue.waiting = queue.waiting[:ROOTS], queue.waiting[ROOTS:]
                answer = await self._query(turn, partition, Question(tuple(root for root, _ in batch)))
                for n, (_, future) in enumerate(batch):
                    if not future.done():
                        future.set_result(None if answer is None else answer.earlier[n])
        finally:
            queue.busy = False

    async def _query(self, turn: Turn, partition: int, question: Question) -> KnownCallsAnswer | None:
        """The answer; None if there is none within the bound."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + BOUND_S
        if self._silent.get(partition, 0.0) > loop.time():
            return None
        trouble = "it did not answer"
        while (left_s := until_s - loop.time()) > 0:
            try:
                reply = await self._attempt(turn, partition, question, left_s)
            except TimeoutError:
                break
            except (OperatorError, OutcomeUnknown, Unavailable) as error:
                trouble = str(error)
            else:
                if reply.outcome == OK and (answer := _read(reply.body, question)) is not None:
                    return answer
                trouble = reply.error.message if reply.error is not None else reply.outcome
                if reply.outcome != UNAVAILABLE:
                    break  # its version does not know the question
            await asyncio.sleep(min(AGAIN_S, left_s))
        self._silent[partition] = loop.time() + SILENT_S
        _logger.warning(
            "calls of an earlier run cannot be looked up",
            partition=partition,
            by=turn.command.key,
            reason=trouble,
        )
        return None

    async def _attempt(self, turn: Turn, partition: int, question: Question, left_s: float) -> Reply:
        transport = self._transport
        pending_calls, log = transport.pending_calls, transport.log
        await pending_calls.listen()
        key = key_in(partition, namespace_of(turn.command.key), log.partitions)
        id_ = pending_calls.new_id(partition, transport.clock_ms())
        deadline_ms = int(left_s * 1000) + 1
        body = _encode(question)
        command = Command(
            key, ADMIN, CALLS_OF, body=body, id=id_, reply_to=pending_calls.address, deadline_ms=deadline_ms
        )
        call = Call(turn, command, partition)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        call.future = future
        pending_calls.expect(call)
        try:
            record = Record(*sealed_record(command, transport.seal))
            receipt = log.append(Topic.COMMANDS, partition, record, command)
            receipt.when_durable(lambda error: None if error is None else call.failed(error))
            async with asyncio.timeout(left_s):
                return await future
        finally:
            pending_calls.forget(call)


def _read(body: bytes, question: Question) -> KnownCallsAnswer | None:
    try:
        answer = _answer(body)
    except msgspec.DecodeError:
        return None
    return answer if len(answer.earlier) == len(question.roots) else None
