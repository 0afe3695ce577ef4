"""Lost sockets on a real broker whose queue is full: each close handler runs once, in the same reign."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from tests.kafka import Kafka
from tests.kafka_owner import serving, until
from tests.unit.harness import GATEWAY, RecordingIngress
from tests.unit.test_sockets import OLD_GATEWAY, Room, socket

from perdure.objects.durable import Env
from perdure.objects.registry import ObjectType, Registry
from perdure.schemas.commands import FETCH, NOBODY, Command, sealed_record
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.log.base import Record, Topic
from perdure.streams.log.kafka import queues
from perdure.streams.log.kafka.log import KafkaLog
from perdure.streams.opening import clock_ms
from perdure.streams.owner import socket_watch
from perdure.streams.owner.owner import Owner
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.ports import (
    UNSEALED,
)

pytestmark = pytest.mark.kafka
SOCKETS = 40


def test_each_lost_socket_is_closed_once_in_the_reign_that_finds_it(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a gateway that has fallen silent and of listeners whose instance is gone,
    though the queue takes one at a time.
    """
    monkeypatch.setattr(socket_watch, "SILENT_S", 0.3)

    async def story() -> None:
        log = KafkaLog(kafka.bootstrap, "test-" + uuid.uuid4().hex[:12], 1, clock_ms=clock_ms)
        await log.start()
        try:
            await bootstrap_log(log, "app", "app-uuid")
            seen, store = list[Any](), MemoryStore()
            registry = Registry({"Thing": ObjectType("Thing", Room)}, Env({"seen": seen}))

            def an_owner() -> AbstractAsyncContextManager[Owner]:
                return serving(log, RecordingIngress(GATEWAY), registry, store, 0, uuid.uuid4().hex)

            gateway = OLD_GATEWAY
            monkeypatch.setattr(RecordingIngress, "holds", lambda self, name: True)
            async with an_owner() as owner:
                for number in range(SOCKETS):
                    path, id_ = ("/pair" if number % 2 else "/red"), socket(number)
                    headers = (("upgrade", "websocket"),)
                    command = Command(
                        "Thing/a", FETCH, "GET", path, headers, b"", id_, NOBODY, socket=f"{id_} {gateway}"
                    )
                    log.append(Topic.COMMANDS, 0, Record(*sealed_record(command, UNSEALED)))
                await until(lambda: len(owner.tables.sockets.of("Thing/a")) == SOCKETS)
            monkeypatch.setattr(RecordingIngress, "holds", lambda self, name: False)
            monkeypatch.setattr(queues, "MAX_QUEUED_RECORDS", 1)
            seen.clear()
            async with an_owner() as owner:
                await until(lambda: not owner.tables.sockets.of("Thing/a"))
                await until(lambda: owner.idle)
                closed = sorted(each[0] for each in seen if each != "start")
                assert closed == sorted(socket(number)[-1] for number in range(0, SOCKETS, 2))
                assert owner.counts.claims == 1
        finally:
            await log.close()

    asyncio.run(story())
