"""What brokers say of topics: how many partitions, who leads them, and the topic's id, which no other topic ever had.

Metadata requests of version 10, which aiokafka does not speak; version 5, without ids, where a broker is older than 2.8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, ClassVar, NamedTuple

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

UNKNOWN_TOPIC = 3
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
            return request_struct_class(named, False, False, False, {})
        return request_struct_class(list(self._topics), False)


class Described(NamedTuple):
    """A topic that is there; `id` is 32 hex digits, or empty where the brokers give none."""

    id: str
    error_code: int
    leaders: tuple[int, ...]  # of its partitions, one that has none is -1


async def described(admin: Any, names: Sequence[str]) -> Mapping[str, Described]:
    """What the brokers say of these topics, by name; nothing of one that is absent. Raises one of `UNREACHED`.

    Asked as aiokafka asks, a broker makes a topic that it does not have, as it thinks fit
    (`auto.create.topics.enable`, which is on unless it was turned off).
    """
    answer = (await admin._send_request(_Request(names))).to_object()
    return {
        each["topic"]: Described(
            "" if (id_ := each.get("topic_id", NO_ID)) == NO_ID else id_,
            each["error_code"],
            tuple(part["leader"] for part in sorted(each["partitions"], key=lambda part: part["partition"])),
        )
        for each in answer["topics"]
        if each["error_code"] != UNKNOWN_TOPIC
    }
