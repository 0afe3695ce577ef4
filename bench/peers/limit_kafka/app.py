"""The limit loop on Kafka as an ASGI application.

Laws
- A POST is answered after its command came back from the log and its journal record is acknowledged by all
  replicas.
- A GET is a command too, answered after a journal record that was sent later: the least that proves that no
  other process has the partition.
- At most one batch of a partition is under way; records gather behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from itertools import count
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from perdure.schemas.keys import partition_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Callback = Callable[[], None]

PARTITIONS = 8
COMMANDS, JOURNAL = "limit.commands", "limit.journal"
NOTHING = b"read"
BATCH_BYTES = 1 << 20


class Appender:
    """The records of one partition, in batches."""

    def __init__(self, producer: Any, place: TopicPartition) -> None:
        self._producer = producer
        self._place = place
        self._waiting: list[tuple[bytes | None, bytes, Callback | None]] = []
        self._sending: asyncio.Task[None] | None = None

    def add(self, key: bytes | None, value: bytes, callback: Callback | None) -> None:
        self._waiting.append((key, value, callback))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        await asyncio.sleep(0)  # records of the same pass of the loop join the batch
        while self._waiting:
            records, self._waiting = self._waiting, []
            batch = self._producer.create_batch()
            for key, value, _ in records:
                batch.append(key=key, value=value, timestamp=None)
            batch.close()
            sent = await self._producer.send_batch(batch, self._place.topic, partition=self._place.partition)
            await sent
            for _, _, callback in records:
                if callback is not None:
                    callback()


class LimitLoop:
    """A durable counter per path, on the broker at `bootstrap`."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[int, str, bytes]).decode
        self._counts: dict[bytes, int] = {}
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._numbers = count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        path: str = scope["path"]
        number = next(self._numbers)
        counted = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._commands[partition_of(path, PARTITIONS)].add(
            path.encode(), self._encode((number, scope["method"], b"")), None
        )
        reply = b'{"count":%d}' % await counted
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        owner = await self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        owner.cancel()
        await self._producer.stop()
        await self._consumer.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> asyncio.Task[None]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in (COMMANDS, JOURNAL)])
        await admin.close()
        self._producer: Any = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=BATCH_BYTES,
        )
        await self._producer.start()
        places = [TopicPartition(COMMANDS, number) for number in range(PARTITIONS)]
        self._commands = [Appender(self._producer, place) for place in places]
        self._journals = [
            Appender(self._producer, TopicPartition(JOURNAL, number)) for number in range(PARTITIONS)
        ]
        self._consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
        )
        self._consumer.assign(places)
        await self._consumer.start()
        return asyncio.create_task(self._own())

    async def _own(self) -> None:
        while True:
            batches = await self._consumer.getmany(timeout_ms=1000)
            for place, commands in batches.items():
                for command in commands:
                    self._turn(command, self._journals[place.partition])

    def _turn(self, command: Any, journal: Appender) -> None:
        number, method, _ = self._decode(command.value)
        counted = self._counts.get(command.key, 0)
        if method != "POST":
            journal.add(None, NOTHING, lambda: self._answer(number, counted))
            return
        counted = self._counts[command.key] = counted + 1
        entry = (1, command.offset, number, counted, b'{"count":%d}' % counted)
        journal.add(command.key, self._encode(entry), lambda: self._answer(number, counted))

    def _answer(self, number: int, counted: int) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(counted)
