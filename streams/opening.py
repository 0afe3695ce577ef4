"""Opening what a configuration names: the log, by its scheme, and the wall clock that stamps it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

import structlog

from perdure.objects.zones import rules
from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError, DataDirError
from perdure.streams.datadir import DataDir, app_in, log_in
from perdure.streams.log.base import Followed, Log, Readable, Topic
from perdure.streams.log.embedded.client_access import ClientAccess
from perdure.streams.log.embedded.following import EmbeddedFollowing
from perdure.streams.log.embedded.log import EmbeddedLog
from perdure.streams.log.embedded.read_only import EmbeddedReading
from perdure.streams.log.embedded.reply_topics import EmbeddedReplyTopics
from perdure.streams.log.steady_clock import SteadyClock

clock_ms = SteadyClock().ms
_logger = structlog.get_logger(__name__)


def say_zones() -> None:
    """Log which rules of time zones the alarms of this process follow."""
    _logger.info("time zones", rules=str(rules()))


def new_uuid() -> str:
    """A random name that is unique."""
    return uuid4().hex


def open_data(config: Config, *, must_exist: bool = False) -> DataDir:
    """The configured data directory, locked, and made unless it `must_exist`.
    Raises `DataDirError` or `ConfigError`.
    """
    return DataDir(
        config.data_dir,
        app=config.name,
        partitions=config.partitions,
        new_uuid=new_uuid,
        must_exist=must_exist,
        disposable=bool(config.kafka_brokers),
    )


async def start_log(config: Config, data: DataDir, node: str) -> Log:
    """The configured log, started. Raises `LogUnreachable`, `LogCorrupt` or `ConfigError`."""
    return await (start_kafka(config, node) if config.kafka_brokers else start_embedded(config, data))


async def start_embedded(config: Config, data: DataDir) -> Log:
    """The log in a data directory. Raises as `start_log`."""
    embedded = EmbeddedLog(data.log_path, config.partitions, clock_ms=clock_ms, must_exist=data.has_log)
    embedded.fsync_s = config.limits.fsync_s
    await embedded.start()
    embedded.reply_topics = EmbeddedReplyTopics(ClientAccess(embedded))
    data.log_is_there()
    return embedded


def check_kafka_client(config: Config) -> None:
    """Check that the Kafka client, an extra, is installed where the log is on Kafka. Raises `ConfigError`."""
    if config.kafka_brokers and find_spec("aiokafka") is None:
        raise ConfigError(
            f"{config.log} needs the Kafka client, which is not installed: pip install 'aiokafka>=0.14,<0.15'"
        )


async def open_reading(config: Config) -> Readable:
    """The configured log, for reading only, beside the node that has it. Raises
    `LogUnreachable` or `StorageFailed`.
    """
    if not config.kafka_brokers:
        return EmbeddedReading(log_in(config.data_dir))
    check_kafka_client(config)
    from perdure.streams.log.kafka.read_only import KafkaReading  # an extra, as below
    from perdure.streams.log.kafka.security import security_options

    security = security_options(config.kafka)
    kafka = KafkaReading(
        ",".join(config.kafka_brokers),
        await _base(config, security),
        client_id="perdure-reading",
        security=security,
    )
    await kafka.start()
    return kafka


async def open_following(config: Config) -> Followed:
    """The configured log, to be read while nodes write it.

    Raises `LogUnreachable`, `StorageFailed`, or `DataDirError` if the app has never run.
    """
    if not config.kafka_brokers:
        return EmbeddedFollowing(log_in(config.data_dir), app_in(config.data_dir).partitions)
    from perdure.streams.log.kafka.following import KafkaFollowing  # an extra, as below
    from perdure.streams.log.kafka.security import security_options

    security = security_options(config.kafka)
    base = await _base(config, security)
    partitions = await kafka_partitions(config)
    if not partitions:
        raise DataDirError(f"the app {config.name} has no topics on {config.log}: it has never run there")
    kafka = KafkaFollowing(
        ",".join(config.kafka_brokers), base, partitions, client_id="perdure-following", security=security
    )
    await kafka.start()
    return kafka


async def kafka_partitions(config: Config) -> int:
    """How many partitions the app has on the configured brokers; 0: it is not
    there. Raises `LogUnreachable`.
    """
    from perdure.streams.log.kafka.clients import Endpoint
    from perdure.streams.log.kafka.security import security_options
    from perdure.streams.log.kafka.topics import partitions_of

    security = security_options(config.kafka)
    endpoint = Endpoint(",".join(config.kafka_brokers), "perdure-asking", security)
    return await partitions_of(endpoint, f"{await _base(config, security)}.{Topic.JOURNAL.value}")


async def kafka_topics(config: Config) -> str:
    """What the names of the app's topics on Kafka begin with. Raises `LogUnreachable` or `ConfigError`."""
    from perdure.streams.log.kafka.security import security_options

    return await _base(config, security_options(config.kafka))


async def _base(config: Config, security: Mapping[str, Any]) -> str:
    """What the names of the app's topics begin with. Raises `LogUnreachable` or `ConfigError`."""
    from perdure.streams.log.kafka.clients import Endpoint
    from perdure.streams.log.kafka.generations import base_of, current_generation

    endpoint = Endpoint(",".join(config.kafka_brokers), "perdure-asking", security)
    return base_of(config.name, await current_generation(endpoint, config.name))


async def start_kafka(config: Config, node: str, *, leaving: bool = False) -> Log:
    """The log on the configured brokers. Raises as `start_log`.

    `leaving`: it is only to be copied from: topics that were given more partitions
        than the app has do for that.
    """
    check_kafka_client(config)
    from perdure.streams.log.kafka.log import KafkaLog
    from perdure.streams.log.kafka.security import security_options

    security = security_options(config.kafka)
    kafka = KafkaLog(
        ",".join(config.kafka_brokers),
        await _base(config, security),
        config.partitions,
        clock_ms=clock_ms,
        client_id=f"perdure-{node}",
        security=security,
        leaving=leaving,
    )
    await kafka.start()
    return kafka
