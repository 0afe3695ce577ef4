"""Turns that run again on a real Kafka, two nodes: compared with the calls that the
other node's partition answered.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

import pytest
from tests.kafka import Kafka
from tests.kafka_owner import serving, until
from tests.unit.harness import RecordingIngress
from tests.unit.test_reruns_elsewhere import Thing, failure, silent

from perdure.objects.durable import Binding, Env
from perdure.objects.registry import ObjectType, Registry
from perdure.objects.rpc import methods_of
from perdure.schemas.commands import CALL, LOCAL, Command, call_body, command_record
from perdure.schemas.journal import Entry, EntryRecord, decode_record
from perdure.schemas.keys import partition_of
from perdure.schemas.replies import FAILED, OK, Reply
from perdure.schemas.values import decode_value
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.log.base import Record, Topic
from perdure.streams.log.kafka.log import KafkaLog
from perdure.streams.opening import clock_ms
from perdure.streams.owner.owner import Owner
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.known_calls import RemoteCalls

pytestmark = pytest.mark.kafka
PARTITIONS = 2


class Nodes:
    """Nodes of one app, each with a client of the log and a store of its own; what
    their owners answer is kept.
    """

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap, self._app = bootstrap, "test-" + uuid.uuid4().hex[:12]
        self._numbers = count()
        self.ingress = RecordingIngress()
        self.seen: list[Any] = []
        env = {"seen": self.seen, "THINGS": Binding("Thing", methods_of(Thing))}
        self._registry = Registry({"Thing": ObjectType("Thing", Thing)}, Env(env))

    @asynccontextmanager
    async def node(self, partition: int) -> AsyncIterator[Owner]:
        """A node that serves this partition; at the end it is gone, and says goodbye to nobody."""
        log = KafkaLog(self._bootstrap, self._app, PARTITIONS, clock_ms=clock_ms)
        await log.start()
        await bootstrap_log(log, "app", "app-uuid")
        store, name = MemoryStore(), f"n{next(self._numbers)}"
        try:
            async with serving(log, self.ingress, self._registry, store, partition, name) as owner:
                yield owner
        finally:
            await log.close()

    def ask(self, by: Owner, name: str, method: str, *args: Any, client_key: str | None = None) -> str:
        """Append a call by way of that node's log; its id."""
        id_, body = f"story{next(self._numbers)}", call_body(method, list(args), {})
        command = Command(
            f"Thing/{name}", CALL, method, body=body, id=id_, reply_to=LOCAL, client_key=client_key
        )
        place = partition_of(command.key, PARTITIONS)
        by.ports.transport.log.append(Topic.COMMANDS, place, Record(*command_record(command)))
        return id_

    async def told(self, id_: str) -> Reply:
        await until(lambda: id_ in self.ingress.replies)
        return self.ingress.replies[id_]


async def entries(owner: Owner, key: str) -> list[Entry]:
    """What the journal says of calls of an object."""
    log, kept = owner.ports.transport.log, list[Entry]()
    end = (await log.bounds(Topic.JOURNAL, owner.partition)).end
    async for chunk in log.read(Topic.JOURNAL, owner.partition, 0, end):
        records = [decode_record(each.value) for each in chunk]
        kept += [each.entry for each in records if isinstance(each, EntryRecord) and each.entry.key == key]
    return kept


def name_in(partition: int) -> str:
    names = (f"x{n}" for n in count())
    return next(name for name in names if partition_of(f"Thing/{name}", PARTITIONS) == partition)


def rerun(
    kafka: Kafka,
    method: str,
    args: Callable[[str], list[str]],
    check: Callable[[Reply, Owner, str], Awaitable[None]],
    client_key: str | None,
) -> None:
    """An object calls one of another node, its node dies then, and a third node runs the turn again."""

    async def story() -> None:
        nodes = Nodes(kafka.bootstrap)
        caller, callee = name_in(0), name_in(1)
        async with AsyncExitStack() as stack:
            other = await stack.enter_async_context(nodes.node(1))
            async with nodes.node(0):
                asked = nodes.ask(other, caller, method, *args(callee), client_key=client_key)
                await until(lambda: "called" in nodes.seen)
            assert asked not in nodes.ingress.replies
            await stack.enter_async_context(nodes.node(0))
            await check(await nodes.told(asked), other, f"Thing/{callee}")
            assert nodes.seen.count(method) == 2, "it ran twice"

    asyncio.run(story())


@pytest.mark.parametrize("client_key", [None, "k"], ids=["without a key", "with a key"])
def test_a_turn_that_calls_something_else_is_failed_and_both_calls_are_named(
    kafka: Kafka, client_key: str | None
) -> None:
    """The first call is the same in both runs: it takes effect once, and the message does not name it."""

    async def check(reply: Reply, other: Owner, key: str) -> None:
        outcome, code, message = failure(reply)
        assert (outcome, code) == (FAILED, "non-deterministic")
        made = await entries(other, key)
        counts = {decode_value(each.puts["count"]): each for each in made}
        assert [*counts] == [1, 11, 31], "add 1 once, add 10, add 20"
        assert len(made) == 3
        same, before, now = (counts[n].payload_hash.hex()[:8] for n in (1, 11, 31))
        first, _, second = message.partition(" now, ")
        assert now in first
        assert before in second
        assert same not in message

    rerun(kafka, "fickle", lambda callee: [callee], check, client_key)


@pytest.mark.parametrize("client_key", [None, "k"], ids=["without a key", "with a key"])
def test_a_turn_that_calls_the_same_is_done_and_each_call_once(kafka: Kafka, client_key: str | None) -> None:
    """It is given the answers of then."""

    async def check(reply: Reply, other: Owner, key: str) -> None:
        assert (reply.outcome, reply.status, reply.body) == (OK, 200, b'{"result":[1,2]}')
        assert [decode_value(each.puts["count"]) for each in await entries(other, key)] == [1, 2]

    rerun(kafka, "steady", lambda callee: [callee, callee], check, client_key)


def test_a_planted_bug_is_noticed(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that asks no other: the turn is told that it is done."""
    monkeypatch.setattr(RemoteCalls, "partitions", silent)
    with pytest.raises(AssertionError):
        test_a_turn_that_calls_something_else_is_failed_and_both_calls_are_named(kafka, None)
