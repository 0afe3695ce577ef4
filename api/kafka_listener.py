"""The listener for Kafka clients of a node on the embedded log: its socket, by the configuration, and its
access.

`perdure serve` binds the socket before it opens the data; `Node` starts the listener once its partitions
serve. What the listener answers is in `streams/wire/`.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import NamedTuple

from perdure.api.access.guard import Access
from perdure.api.access.kafka_admission import KafkaAdmission
from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError, OperatorError
from perdure.schemas.listen import AUTO, OFF
from perdure.streams.log.base import Log
from perdure.streams.log.embedded.reply_topics import EmbeddedReplyTopics
from perdure.streams.opening import clock_ms
from perdure.streams.teardown import Closing

DEV_ADDRESS = "127.0.0.1:9092"


class KafkaPort(NamedTuple):
    """The socket for Kafka clients, None if there is none, and the line that `perdure serve` prints of it."""

    listener: socket.socket | None
    line: str

    @property
    def address(self) -> str | None:
        """Where it listens, as HOST:PORT."""
        if self.listener is None:
            return None
        host, port = self.listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind_kafka(config: Config, *, dev: bool) -> KafkaPort:
    """The socket that a configuration asks for, bound. `dev`: of `perdure dev`, which takes a free port 9092
    by itself.

    Raises `ConfigError` for an address that cannot be used, `OperatorError` for one in use.
    """
    wanted = config.kafka_listen
    if wanted == OFF or (wanted == AUTO and (not dev or config.kafka_brokers)):
        return KafkaPort(None, "")
    if config.kafka_brokers:
        raise ConfigError(
            f"kafka_listen is for the embedded log: with {config.log} clients connect to the brokers"
        )
    try:
        listener = _bound(config, DEV_ADDRESS if wanted == AUTO else wanted)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigError(f'kafka_listen = "{wanted}" cannot be used: {error.strerror}') from None
        if wanted == AUTO:
            return KafkaPort(
                None,
                f"Kafka clients: none, as {DEV_ADDRESS} is in use; `--kafka HOST:PORT` takes another address",
            )
        raise OperatorError(
            f"{wanted}, which kafka_listen names, is in use by another process; stop that one, or choose another "
            "address with --kafka"
        ) from None
    port = KafkaPort(listener, "")
    return port._replace(
        line=f"Kafka clients: {port.address}, topics {config.name}.commands and {config.name}.replies"
    )


def _bound(config: Config, address: str) -> socket.socket:
    host, _, number = address.rpartition(":")
    host = host.strip("[]")
    if _is_public(host) and not (config.insecure_public or config.guarded):
        raise ConfigError(
            f'kafka_listen = "{address}" lets every machine that reaches this one in, without a token; use 127.0.0.1, '
            "add [[tokens]] (docs/access.md), or pass --insecure-public to allow it"
        )
    try:
        family, _, _, _, place = socket.getaddrinfo(host, int(number), type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(f'kafka_listen = "{address}": {error.strerror}') from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)  # another process that wants the address is refused from now on
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _is_public(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


async def open_kafka(
    config: Config, log: Log, listener: socket.socket, access: Access | None, opened: Closing
) -> None:
    """Answer Kafka clients on `listener` from now on; what closes it is pushed onto `opened`."""
    from perdure.streams.wire.listener import KafkaListener  # only where there is one: it costs a start 30 ms

    topics = log.reply_topics
    assert isinstance(topics, EmbeddedReplyTopics), "bind_kafka binds for the embedded log alone"
    keep_s, advertised = config.keep_commands_s, config.kafka_advertised
    host, _, port = advertised.rpartition(":")
    kafka = KafkaListener(
        config.name,
        topics.access,
        clock_ms=clock_ms,
        keep_ms=None if keep_s is None else int(keep_s * 1000),
        advertised=(host.strip("[]"), int(port)) if advertised else None,
        admission=None if access is None else KafkaAdmission(access, config.tokens),
    )
    await kafka.start(listener)
    opened.push("the Kafka listener", kafka.close)
