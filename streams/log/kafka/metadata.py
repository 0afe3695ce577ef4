"""What brokers say of topics: how many partitions, who leads them, and the topic's
id, which no other topic ever had.

Metadata requests of version 10, which aiokafka does not speak; version 5, without
ids, where a broker is older than 2.8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, ClassVar, NamedTuple

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

UNKNOWN_TOPIC, TOPIC_DENIED = 3, 29
DELETE_RECORDS = 21  # a kind of request
READ, WRITE, DELETE, DESCRIBE_CONFIGS = 3, 4, 6, 10  # operations of Kafka's ACLs on a topic
ALL_OPERATIONS = -1  # as a set of bits
_UNKNOWN_OPERATIONS = -(2**31)  # where the broker does not say
NO_ID = "0" * 32


class _Uuid(AbstractType):  # type: ignore[misc]  # aiokafka ships no types
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> str:
        return data.read(16).hex()


class _Response(Response):  # type: ignore[misc]  # as above
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized", Int32),
        ("tags", TaggedFields),
    )


class _RequestV10(RequestStruct):  # type: ignore[misc]  # as above
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _Request(Request[MetadataRequest_v5 | _RequestV10]):  # type: ignore[misc]  # as above
    API_KEY: ClassVar[int] = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is _RequestV10:
            named: list[tuple[bytes, str, dict[int, bytes]]] = [
                (bytes(16), topic, {}) for topic in self._topics
            ]
            return request_struct_class(named, False, False, True, {})
        return request_struct_class(list(self._topics), False)


class Described(NamedTuple):
    """A topic that is there; `id` is 32 hex digits, or empty where the brokers give none."""

    id: str
    error_code: int
    leaders: tuple[int, ...]  # of its partitions, one that has none is -1
    copies: int = 0  # replicas of the partition that has the fewest
    operations: int = ALL_OPERATIONS  # bits of those that this client may do

    def may(self, operation: int) -> bool:
        """True if this client may do this operation on the topic, as far as the broker says."""
        return bool(self.operations >> operation & 1)


async def described(admin: Any, names: Sequence[str]) -> Mapping[str, Described]:
    """What the brokers say of these topics, by name; nothing of one that is absent.
    Raises one of `UNREACHED`.

    Asked as aiokafka asks, a broker makes a topic that it does not have, as it thinks fit
    (`auto.create.topics.enable`, which is on unless it was turned off).
    """
    answer = (await admin._send_request(_Request(names))).to_object()
    return {
        each["topic"]: _described(each) for each in answer["topics"] if each["error_code"] != UNKNOWN_TOPIC
    }


async def settings_in_force(
    admin: Any, names: Sequence[str], settings: Sequence[str]
) -> Mapping[str, Mapping[str, str | None]]:
    """The effective values of these settings by topic, defaults included. Raises one of `UNREACHED`.

    Without those that a broker does not have, and without topics whose settings this client may not see.
    """
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(settings)) for name in names]
    return {
        name: {setting: value for setting, value, *_ in entries if setting in settings}
        for response in await admin.describe_configs(resources)
        for error_code, _, _, name, entries in response.resources
        if not error_code
    }


def has_delete_records(admin: Any) -> bool:
    """True if the brokers that this client is connected to list the request by which records are trimmed."""
    return any(DELETE_RECORDS in connection._versions for connection in admin._client._conns.values())


def _described(topic: Mapping[str, Any]) -> Described:
    parts = sorted(topic["partitions"], key=lambda part: part["partition"])
    operations = topic.get("authorized", _UNKNOWN_OPERATIONS)
    return Described(
        "" if (id_ := topic.get("topic_id", NO_ID)) == NO_ID else id_,
        topic["error_code"],
        tuple(part["leader"] for part in parts),
        min((len(part["replicas"]) for part in parts), default=0),
        ALL_OPERATIONS if operations == _UNKNOWN_OPERATIONS else operations,
    )
