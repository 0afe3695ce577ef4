"""A rescale on Kafka: topics of the next generation, and a step in the old journals that leads there.

Laws [all: test_kafka_rescale.py]
- Every old partition is claimed before it is read, so that no owner serves it meanwhile; a node that claims
  one nevertheless makes the step void, and the rescale fails.
- The step in the journal of partition 0 is the switch, and the last one. Behind a step no owner serves its
  partition: one that was interrupted between the steps is finished by running it again.
- The old topics keep all that they hold.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from os import getpid
from socket import gethostname
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient

from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError, LogUnreachable
from perdure.schemas.journal import Claim, Migration, encode_chained
from perdure.schemas.migrations import Step, moved, moved_to
from perdure.streams import failpoints
from perdure.streams.datadir import remove_folder
from perdure.streams.journal.bootstrap import append_one
from perdure.streams.log.base import Log, Progress, Record, Topic
from perdure.streams.log.kafka.clients import UNREACHED, Endpoint, close_client
from perdure.streams.log.kafka.generations import base_of, current_generation, partitions_in_header
from perdure.streams.log.kafka.log import KafkaLog
from perdure.streams.log.kafka.metadata import described
from perdure.streams.log.kafka.probe import unreachable
from perdure.streams.log.kafka.security import security_options
from perdure.streams.opening import clock_ms, new_uuid, open_data
from perdure.streams.rescale.copying import checked, copy, folded, settled
from perdure.streams.state.fold import fold, write_out
from perdure.streams.state.tables import Tables
from perdure.streams.store.rocks import RocksStore

PATIENCE_S = 30.0  # until the brokers have deleted the topics of an interrupted one
POLL_S = 0.1


async def on_kafka(config: Config, partitions: int, progress: Progress) -> dict[str, Any]:
    """As `rescale`, for an app on Kafka."""
    endpoint = Endpoint(",".join(config.kafka_brokers), "perdure-rescale", security_options(config.kafka))
    generation = await current_generation(endpoint, config.name)
    base, following = base_of(config.name, generation), base_of(config.name, generation + 1)
    before = await partitions_in_header(endpoint, f"{base}.{Topic.JOURNAL.value}")
    if not before:
        raise ConfigError(
            f"there is no app {config.name} on {endpoint.bootstrap}: set partitions and start it"
        )
    if before == partitions:
        raise ConfigError(
            f"the app has {partitions} partitions already: set partitions = {partitions} and start it"
        )
    copies = await _remove(endpoint, following, base)
    old_config = config.model_copy(update={"partitions": before})
    async with AsyncExitStack() as opened:
        data = open_data(old_config)
        opened.callback(data.close)
        scratch = data.path / "rescale.tmp"
        await remove_folder(scratch)
        opened.push_async_callback(remove_folder, scratch)
        log = _log(config, endpoint, base, before, leaving=True)
        await log.start()
        opened.push_async_callback(log.close)
        old, app_uuid = await folded(log, old_config, data, opened, progress)
        for tables in old:
            await _claim(log, tables)
        settled(old, [(await log.bounds(Topic.COMMANDS, tables.partition)).end for tables in old])
        new_log = _log(config, endpoint, following, partitions, copies=copies)
        await new_log.start()
        opened.push_async_callback(new_log.close)
        entries = await copy(old, new_log, config.name, app_uuid)
        new_store = RocksStore(scratch)
        opened.callback(new_store.close)
        compared = await checked(old, new_log, new_store, progress)
        failpoints.hit("rescale.before_switch")
        step = moved(following, partitions)
        for tables in reversed(old):
            await _mark(log, tables, step)
            failpoints.hit("rescale.marked")
    topics = f"{following}.{{commands,journal,replies,dead}}"
    return {"from": before, **compared._asdict(), "entries": entries, "topics": topics, "kept": f"{base}.*"}


def _log(
    config: Config,
    endpoint: Endpoint,
    base: str,
    partitions: int,
    *,
    leaving: bool = False,
    copies: int | None = None,
) -> KafkaLog:
    return KafkaLog(
        endpoint.bootstrap,
        base,
        partitions,
        clock_ms=clock_ms,
        client_id=endpoint.client_id,
        security=endpoint.security,
        replication_factor=copies,
        leaving=leaving,
    )


async def _remove(endpoint: Endpoint, following: str, base: str) -> int:
    """Delete the topics of an interrupted rescale; returns how many copies the current topics have."""
    names = [f"{following}.{topic.value}" for topic in Topic]
    journal = f"{base}.{Topic.JOURNAL.value}"
    admin: Any = AIOKafkaAdminClient(**endpoint.options("admin"))
    try:
        await admin.start()
        async with asyncio.timeout(PATIENCE_S):
            while left := list(await described(admin, names)):
                await admin.delete_topics(left)
                await asyncio.sleep(POLL_S)
        return (await described(admin, [journal]))[journal].copies
    except TimeoutError:
        raise LogUnreachable(
            f"Kafka at {endpoint.bootstrap} has not deleted {following}.* in {PATIENCE_S} s"
        ) from None
    except UNREACHED as error:
        raise await unreachable(endpoint, error) from error
    finally:
        await close_client(admin._client)


async def _claim(log: Log, tables: Tables) -> None:
    """Claim a partition, and fold it up to the claim: from then on no other node writes there unnoticed."""
    me = (
        "rescale",
        gethostname(),
        getpid(),
        None,
        dict(log.topic_ids),
        tables.meta.seal,
        tables.meta.sealed_from,
    )
    offset = await append_one(log, tables.partition, Claim(new_uuid(), *me))
    await fold(log, tables, offset + 1)
    await write_out(tables)


async def _mark(log: Log, tables: Tables, step: Step) -> None:
    """End a partition with the step to its successors. Raises `ConfigError` if another node claimed it."""
    if tables.steps and moved_to(tables.steps[-1]) == moved_to(step):
        return
    position = tables.reader.position
    value, _ = encode_chained(Migration(position.epoch, position.seq, step), position.chain)
    offset = await append_one(log, tables.partition, Record(None, value))
    await fold(log, tables, offset + 1)
    if not tables.steps or moved_to(tables.steps[-1]) != moved_to(step):
        raise ConfigError(
            f"partition {tables.partition} was claimed by another node meanwhile: stop the app on all machines, and "
            "run this again"
        )
