"""The one broker that clients see: its topics, who may use them, and the state that requests share."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from perdure.schemas.access import ADMIN, CALL, READ, Grant, Need, may
from perdure.schemas.commands import LOCAL
from perdure.schemas.errors import BadKey
from perdure.schemas.keys import namespace_of, parse_key
from perdure.streams.log.base import Record, Topic
from perdure.streams.log.embedded.client_access import ClientAccess
from perdure.streams.log.embedded.tail import EmbeddedStream
from perdure.streams.wire.admission import Admission, Credentials
from perdure.streams.wire.errors import Code, RequestRefused
from perdure.streams.wire.groups.coordinator import Coordinator
from perdure.streams.wire.producers import Producers
from perdure.streams.wire.sasl import Exchange

NODE_ID = 1
MAX_TOPICS = 1_000
MAX_PARTITIONS = 4_096  # of all topics of clients
_OWN = {topic.value: topic for topic in Topic}
_DOOR = ("reply-to", LOCAL.encode())
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


@dataclass
class KafkaCaller:
    """A connection as requests see it: the address that it reached, and its grant."""

    host: str
    port: int
    peer: str
    client_id: str = ""
    grant: Grant | None = None
    credentials: Credentials | None = None  # what the grant was given for
    exchange: Exchange | None = None  # of SASL, while it lasts
    turned_away: bool = False  # it is closed after its next answer


class PartitionPlace(NamedTuple):
    """A partition that a request names, with the topic of perdure that it belongs to."""

    stream: EmbeddedStream
    topic: Topic | None


@dataclass
class Broker:
    """The state that the requests of all connections share."""

    app: str
    log: ClientAccess
    clock_ms: Callable[[], int]
    advertised: tuple[str, int] | None
    admission: Admission | None
    producers: Producers
    groups: Coordinator
    loop: asyncio.AbstractEventLoop
    keep_ms: int | None
    apis: dict[int, tuple[int, int]] = field(default_factory=dict)

    def own(self, name: str) -> Topic | None:
        """The topic of perdure's that has this name; None if none has."""
        app, _, topic = name.rpartition(".")
        return _OWN.get(topic) if app == self.app else None

    def names(self) -> Iterator[str]:
        yield from (f"{self.app}.{topic}" for topic in Topic)
        yield from self.log.topics

    def partitions(self, name: str) -> int | None:
        """The number of partitions of a topic; None if there is no such topic."""
        if self.own(name) is not None:
            return self.log.partitions
        topic = self.log.topics.get(name)
        return None if topic is None else len(topic.streams)

    def place(self, name: str, partition: int) -> PartitionPlace:
        """A partition. Raises `RequestRefused` if there is none."""
        if not 0 <= partition < (self.partitions(name) or 0):
            raise RequestRefused(
                Code.UNKNOWN_TOPIC_OR_PARTITION, f"there is no partition {partition} of {name}"
            )
        own = self.own(name)
        if own is not None:
            return PartitionPlace(self.log.stream(own, partition), own)
        return PartitionPlace(self.log.topics[name].streams[partition], None)

    def address(self, caller: KafkaCaller) -> tuple[str, int]:
        """The address of this broker for a client: as configured, or the one that the client has reached."""
        return self.advertised or (caller.host, caller.port)

    # --- rights

    def may_read(self, caller: KafkaCaller, name: str) -> bool:
        """True if this caller may read a topic: replies and topics of clients with `read:*`, the others as an
        admin.
        """
        if self.own(name) in (None, Topic.REPLIES):
            return self._may(caller, Need(READ, "*")) or self._may(caller, Need(ADMIN))
        return self._may(caller, Need(ADMIN))

    def sees(self, caller: KafkaCaller, name: str) -> bool:
        """True if a topic exists for this caller."""
        return self.may_read(caller, name) or self.own(name) is Topic.COMMANDS

    def may_create(self, caller: KafkaCaller) -> bool:
        return self._may(caller, Need(ADMIN))

    def check_group(self, caller: KafkaCaller) -> None:
        """Raises `RequestRefused` if this caller may not use groups: that needs `read:*`."""
        if not (self._may(caller, Need(READ, "*")) or self._may(caller, Need(ADMIN))):
            raise RequestRefused(Code.GROUP_AUTHORIZATION_FAILED, "groups need the right read:*")

    def check_write(self, caller: KafkaCaller, place: PartitionPlace, records: list[Record]) -> None:
        """Raises `RequestRefused` if this caller may not append these records there.

        Their commands are not answered by a door of this process: under the id of another client's command
        they would take its answer.
        """
        if place.topic not in (Topic.COMMANDS, None):
            raise RequestRefused(
                Code.TOPIC_AUTHORIZATION_FAILED,
                f"{self.app}.{place.topic} is written by perdure alone; clients produce to {self.app}.commands",
            )
        if place.topic is not None and any(_DOOR in record.headers for record in records):
            raise RequestRefused(
                Code.INVALID_RECORD,
                f"reply-to: {LOCAL} is for perdure's own doors; leave it out, or name a partition or a topic",
            )
        if self.admission is None or self._may(caller, Need(CALL, "*")):
            return
        if place.topic is None:
            raise RequestRefused(Code.TOPIC_AUTHORIZATION_FAILED, "this needs the right call:*")
        for record in records:
            try:
                namespace = namespace_of(parse_key(record.key or b""))
            except BadKey:
                raise RequestRefused(
                    Code.TOPIC_AUTHORIZATION_FAILED, "without call:* each record needs a key"
                ) from None
            if not self._may(caller, Need(CALL, namespace)):
                raise RequestRefused(
                    Code.TOPIC_AUTHORIZATION_FAILED, f"this needs the right call:{namespace[:64]}"
                )

    def _may(self, caller: KafkaCaller, need: Need) -> bool:
        return self.admission is None or (caller.grant is not None and may(caller.grant, need))

    # --- topics of clients

    def check_new(self, name: str, partitions: int) -> None:
        """Raises `RequestRefused` if no topic can have this name and size."""
        if not _NAME.fullmatch(name) or name in (".", ".."):
            raise RequestRefused(
                Code.INVALID_TOPIC, f"{name[:60]!r} is not a topic's name: a-z A-Z 0-9 . _ - are allowed"
            )
        if self.partitions(name) is not None:
            raise RequestRefused(Code.TOPIC_ALREADY_EXISTS, f"there is a topic {name}")
        if name.startswith(f"{self.app}.") and name.count(".") == 1 and name != f"{self.app}.events":
            raise RequestRefused(
                Code.POLICY_VIOLATION, f"names that begin with {self.app}. are perdure's own"
            )
        if partitions < 1:
            raise RequestRefused(Code.INVALID_PARTITIONS, f"{partitions} partitions")
        used = sum(len(topic.streams) for topic in self.log.topics.values())
        if len(self.log.topics) >= MAX_TOPICS or used + partitions > MAX_PARTITIONS:
            raise RequestRefused(
                Code.POLICY_VIOLATION,
                f"the embedded log has room for {MAX_TOPICS} topics of clients with {MAX_PARTITIONS} partitions in all",
            )
