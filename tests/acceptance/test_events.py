"""The audit feed on both logs: each entry is there as a CloudEvent, in order, though its writer is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from tests.acceptance.projected import ROUNDS, Load, Place, counts, ended


async def events_of(brokers: str, topic: str, partitions: int) -> list[list[dict[str, Any]]]:
    """All events of each partition."""
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=brokers, enable_auto_commit=False)
    await consumer.start()
    try:
        places = [TopicPartition(topic, each) for each in range(partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        read: list[list[dict[str, Any]]] = [[] for _ in places]
        while any([await consumer.position(place) < ends[place] for place in places]):
            for place, records in (await consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    assert dict(record.headers)["content-type"] == b"application/cloudevents+json"
                    read[place.partition].append(json.loads(record.value))
        return read
    finally:
        await consumer.stop()


@pytest.mark.kafka
def test_each_entry_is_an_event_though_the_feed_is_killed(log: str, tmp_path: Path) -> None:
    """In the order of the journal; an id may be there twice, of a batch that was on its way."""
    place = Place(tmp_path / "app", log, beside=False)
    listen = () if log != "embedded" else ("--kafka", "127.0.0.1:0")
    with place.serve(*listen) as server:
        brokers = log.removeprefix("kafka://") if log != "embedded" else server.kafka
        load = Load(server.url)
        feeds = [place.worker("data", "--events", "--events-to", brokers)]
        with ended(feeds):
            for _ in range(ROUNDS // 2):
                load.more(60)
                feeds[0].kill()
                feeds[0].wait()
                feeds[0] = place.worker("data", "--events", "--events-to", brokers)
            load.end()
            feeds[0].kill()
            feeds[0].wait()
        last = place.worker("data", "--events", "--events-to", brokers, "--until-end")
        assert last.wait(60) == 0
        counted = counts(server.url)
        read = asyncio.run(events_of(brokers, f"{place.name}.events", 4))
    puts: dict[str, int] = {}
    turns = 0
    for partition, events in enumerate(read):
        once = {event["id"]: event for event in events}
        offsets = [int(each.partition(":")[2]) for each in once]
        assert offsets == sorted(offsets)
        assert {each.partition(":")[0] for each in once} <= {str(partition)}
        for event in once.values():
            assert (event["specversion"], event["source"]) == ("1.0", f"/{place.name}/journal/{partition}")
            if "puts" in event["data"]:
                turns += 1
                puts[event["subject"].removeprefix("Counter/")] = event["data"]["puts"]["count"]
    assert puts == counted
    assert turns == sum(counted.values())
    with contextlib.suppress(FileNotFoundError):
        assert not list((tmp_path / "app" / "data" / "projections").glob("*/*.new"))
