"""`perdure doctor`: what it says of a disk, of a real Kafka, and of topics that are not in order."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import NewTopic
from tests.kafka import Kafka, admin
from tests.process import run, serve

from perdure.schemas.findings import OK, REFUSED, WARNING
from perdure.streams.doctor import clock_finding


def checks(*arguments: str, code: int = 0) -> dict[str, dict[str, str]]:
    """The checks of a run by their names, the first of each. `code`: the exit code that it must have."""
    done = run("doctor", *arguments, "--json")
    assert done.returncode == code, done.stderr + done.stdout
    return {each["check"]: each for each in reversed(json.loads(done.stdout)["checks"])}


def test_a_disk_is_measured_and_nothing_is_made(counter: Path, tmp_path: Path) -> None:
    """Before the first start: space, fsync and file system; no directory is made."""
    data = tmp_path / "data"
    found = checks(str(counter), "--data", str(data))
    assert set(found) >= {"data directory", "free space", "fsync", "file system", "clock of this machine"}
    assert "made by the first start" in found["data directory"]["text"]
    assert not data.exists()


def test_a_running_app_is_examined_and_another_one_is_refused(counter: Path, tmp_path: Path) -> None:
    """While it runs; another partition count and another app's directory are refused with what to do."""
    data = str(tmp_path / "data")
    with serve(counter, Path(data)):
        assert checks(str(counter), "--data", data)["data directory"]["state"] == OK
    done = run("doctor", str(counter), "--data", data, environ={"PERDURE_PARTITIONS": "3"})
    assert done.returncode == 1
    assert "REFUSED  data directory" in done.stdout
    assert "perdure rescale --partitions 3" in done.stdout
    other = counter.parent / "other.py"
    other.write_text(counter.read_text())
    assert checks(str(other), "--data", data, code=1)["data directory"]["state"] == REFUSED


def test_a_clock_that_was_never_set_is_refused() -> None:
    """A machine without a battery begins in 1970."""
    assert clock_finding(0.0).state == REFUSED


async def make(client: Any, app: str, count: int, **settings: str) -> None:
    topics = [
        NewTopic(f"{app}.{topic}", count, 1, topic_configs=settings)
        for topic in ("commands", "journal", "replies", "dead")
    ]
    await client.create_topics(topics)


@pytest.mark.kafka
def test_a_real_broker_is_examined_and_left_as_it_was(kafka: Kafka, counter: Path) -> None:
    """The experiments pass, one broker is a warning, the scratch topic is gone; then topics that are not in
    order."""
    app = f"doctor-{uuid.uuid4().hex[:8]}"
    (counter.parent / "perdure.toml").write_text(f'name = "{app}"\npartitions = 2\n')
    where, log = str(counter.parent), f"kafka://{kafka.bootstrap}"
    found = checks(where, "--log", log)
    for check in ("consecutive offsets", "second producer", "trimming", "clock"):
        assert found[check]["state"] == OK, found[check]
    assert found["brokers"]["state"] == WARNING
    assert "the first start" in found["topics"]["text"]

    async def spoil() -> None:
        async with admin(kafka) as client:
            assert not [name for name in await client.list_topics() if name.startswith(app)]
            await make(
                client, app, 2, **{"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}
            )

    asyncio.run(spoil())
    found = checks(where, "--log", log, code=1)
    assert "cleanup.policy=compact" in found[f"topic {app}.journal"]["text"]
    assert "kafka-configs.sh" in found[f"topic {app}.journal"]["mend"]
    assert found[f"copies of {app}.journal"]["state"] == WARNING
    assert found["topic ids"]["state"] == found["rights"]["state"] == found["partitions"]["state"] == OK


@pytest.mark.kafka
def test_brokers_that_are_away_and_added_partitions_are_refused(kafka: Kafka, counter: Path) -> None:
    """By an address alone; and the partitions of all four topics are compared."""
    found = checks("kafka://127.0.0.1:1", code=1)
    assert found["connection"]["state"] == REFUSED
    assert "takes no connection" in found["connection"]["text"]
    app = f"doctor-{uuid.uuid4().hex[:8]}"

    async def grown() -> None:
        async with admin(kafka) as client:
            await make(client, app, 3)

    asyncio.run(grown())
    (counter.parent / "perdure.toml").write_text(f'name = "{app}"\npartitions = 2\n')
    found = checks(str(counter.parent), "--log", f"kafka://{kafka.bootstrap}", code=1)
    assert "has 3 partitions, but 2 are configured" in found["partitions"]["text"]
