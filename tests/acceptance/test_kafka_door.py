"""The door that any Kafka client finds open: produce to `{app}.commands`, read `{app}.replies`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from tests.acceptance.harness import Deployment, deploy, port_of
from tests.acceptance.wire import PATIENCE_S, ask
from tests.kafka import Kafka, console_consumer, console_producer, tools_or_skip
from tests.process import Server

from perdure.schemas.keys import partition_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "counter.py"
PARTITIONS = 4
HOME = partition_of("Counter/alice", PARTITIONS)
NOBODY = next(  # an object of no namespace, in the same partition
    key.encode() for key in (f"Nobody/{n}" for n in range(100)) if partition_of(key, PARTITIONS) == HOME
)
INCREMENT = b'{"method":"increment","args":[2]}'

Headers = tuple[tuple[str, bytes], ...]


@contextmanager
def served(kafka: Kafka, path: Path) -> Iterator[tuple[Server, Deployment]]:
    log, name = f"kafka://{kafka.bootstrap}", f"t{uuid4().hex[:12]}"
    deployment = deploy(path, log=log, name=name, partitions=PARTITIONS, app=EXAMPLE)
    with deployment.serve() as server:
        yield server, deployment
        assert server.stop() == 0, server.stderr()
    deployment.verify()


def test_the_first_use_of_all(kafka: Kafka, tmp_path: Path) -> None:
    """Kafka's own console producer calls an object, Kafka's own console consumer reads its answer."""
    tools_or_skip(kafka)
    with served(kafka, tmp_path) as (server, deployment):
        name = deployment.config.name
        console_producer(
            kafka,
            f"{name}.commands",
            [f"Counter/alice|{INCREMENT.decode()}", f"Counter/bob|{INCREMENT.decode()}"],
            properties={"parse.key": "true", "key.separator": "|"},
        )
        shown = {"print.key": "true", "print.headers": "true"}
        for key in ("Counter/alice", "Counter/bob"):
            place = partition_of(key, PARTITIONS)  # heartbeats of nodes are in partition 0
            (line,) = console_consumer(kafka, f"{name}.replies", count=1, partition=place, properties=shown)
            assert f"\t{key}\t" in line
            headers, _, value = line.split("\t")
            assert "outcome:ok" in headers
            assert "status:200" in headers
            assert json.loads(value) == {"result": 2}
            told = asyncio.run(ask(port_of(server), "GET", f"/objects/{key}"))
            assert told.json == {"count": 2}


DEEP = b'{"method":"increment","args":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

# what is wrong with it: key, value, headers, and a piece of the reason
BAD: dict[str, tuple[bytes | None, bytes | None, Headers, str]] = {
    "bad JSON": (b"Counter/alice", b'{"method": "increment", ', (), "not JSON"),
    "no object": (b"Counter/alice", b"[1, 2]", (), "a call is a JSON object"),
    "not UTF-8": (b"Counter/alice", b'{"method": "\xff\xfe"}', (), "not JSON"),
    "null key": (None, INCREMENT, (), "no key"),
    "key without a name": (b"Counter", INCREMENT, (), "bad-key"),
    "key with a path": (b"Counter/../../etc", INCREMENT, (), "bad-key"),
    "key not UTF-8": (b"Counter/\xff\xfe", INCREMENT, (), "bad-key"),
    "unknown namespace": (NOBODY, INCREMENT, (), "unknown-namespace"),
    "null value": (b"Counter/alice", None, (), "no value"),
    "unknown kind": (b"Counter/alice", INCREMENT, (("perdure-kind", b"shout"),), "unknown kind"),
    "kind of perdure's own": (
        b"Counter/alice",
        INCREMENT,
        (("perdure-kind", b"alarm"),),
        "only perdure itself",
    ),
    "a principal": (b"Counter/alice", INCREMENT, (("perdure-principal", b"alice"),), "only perdure itself"),
    "unknown version": (b"Counter/alice", INCREMENT, (("perdure-v", b"7"),), "version"),
    "header not UTF-8": (b"Counter/alice", INCREMENT, (("perdure-kind", b"\xff"),), "UTF-8"),
    "empty idempotency key": (b"Counter/alice", INCREMENT, (("idempotency-key", b""),), "idempotency key"),
    "nested deeply": (b"Counter/alice", DEEP, (), "nested too deeply"),
    "NaN": (b"Counter/alice", b'{"method":"increment","args":[NaN]}', (), "NaN"),
    "huge int": (
        b"Counter/alice",
        b'{"method":"increment","args":[' + b"9" * 100_000 + b"]}",
        (),
        "not JSON",
    ),
    "duplicate key": (b"Counter/alice", b'{"method":"increment","method":"x"}', (), "one key twice"),
}


async def _produce_all(kafka: Kafka, name: str) -> dict[str, tuple[int, int]]:
    """Each bad record, with a good one behind it; the bad ones' places."""
    places = {}
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:

        async def send(key: bytes | None, value: bytes | None, headers: Headers) -> tuple[int, int]:
            at = await producer.send_and_wait(
                f"{name}.commands", value, key=key, headers=list(headers), partition=HOME
            )
            return at.partition, at.offset

        for what, (key, value, headers, _) in BAD.items():
            places[what] = await send(key, value, headers)
            await send(b"Counter/alice", INCREMENT, ())
    return places


async def _read(kafka: Kafka, topic: str, count: int) -> list[ConsumerRecord]:
    """The first `count` records of a topic's partitions, and proof that there is none more after them yet."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")
    found: list[ConsumerRecord] = []
    async with consumer, asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += [each for each in records if "command" in dict(each.headers)]  # no heartbeats
    assert len(found) == count
    return found


def _place(record: ConsumerRecord) -> tuple[int, int]:
    partition, _, offset = dict(record.headers)["command"].decode().partition(":")
    return int(partition), int(offset)


def test_what_is_no_command_is_answered_kept_and_passed(kafka: Kafka, tmp_path: Path) -> None:
    """Each bad record: an error reply, itself among the dead with the reason, and the next one is served."""
    with served(kafka, tmp_path) as (server, deployment):
        name = deployment.config.name
        places = asyncio.run(_produce_all(kafka, name))
        replies = {_place(each): each for each in asyncio.run(_read(kafka, f"{name}.replies", 2 * len(BAD)))}
        dead = {_place(each): each for each in asyncio.run(_read(kafka, f"{name}.dead", len(BAD)))}
        assert dead.keys() == set(places.values())
        for what, (key, value, headers, reason) in BAD.items():
            letter, reply = dead[places[what]], replies[places[what]]
            assert (letter.key, letter.value) == (key, value), what
            assert set(headers) <= set(letter.headers), what
            assert reason in dict(letter.headers)["reason"].decode(), (what, letter.headers)
            assert dict(reply.headers)["outcome"] == b"rejected", what
            error = json.loads(reply.value)["error"]
            assert reason in f"{error['code']}: {error['message']}", (what, error)
        good = [each for place, each in replies.items() if place not in dead]
        assert [json.loads(each.value)["result"] for each in good] == [2 * n for n in range(1, len(BAD) + 1)]
        told = asyncio.run(ask(port_of(server), "GET", "/objects/Counter/alice"))
        assert told.json == {"count": 2 * len(BAD)}
