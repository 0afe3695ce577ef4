"""What a node may do with the topics of its app, by the ACLs of the cluster.

Brokers say with each description of a topic which operations this client may do on
it, so a start costs no further request.

Law: a right that is missing is named with the command that grants it. [test_kafka_security.py]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from perdure.streams.log.kafka.clients import Endpoint
from perdure.streams.log.kafka.metadata import (
    DELETE,
    DESCRIBE_CONFIGS,
    READ,
    TOPIC_DENIED,
    WRITE,
    Described,
)

NEEDED: Mapping[str, int] = {"Read": READ, "Write": WRITE}
WANTED: Mapping[str, int] = {"Delete": DELETE, "DescribeConfigs": DESCRIBE_CONFIGS}  # it serves without them


def missing_rights(
    endpoint: Endpoint, topics: Mapping[str, Described], operations: Mapping[str, int] = NEEDED
) -> str:
    """What this client lacks on these topics, and the command that grants it; empty if it lacks nothing."""
    for name, topic in topics.items():
        if topic.error_code == TOPIC_DENIED:
            return f"this client may not see topic {name}: {grant(endpoint, name, ('Read', 'Write', 'Describe'))}"
        lacking = [operation for operation, bit in operations.items() if not topic.may(bit)]
        if lacking:
            return f"this client may not {' or '.join(lacking)} on topic {name}: {grant(endpoint, name, lacking)}"
    return ""


def grant(endpoint: Endpoint, topic: str, operations: Iterable[str]) -> str:
    """The advice to grant operations on a topic."""
    user = endpoint.security.get("sasl_plain_username", "NAME")
    wanted = " ".join(f"--operation {operation}" for operation in operations)
    return (
        f"grant it with kafka-acls.sh --bootstrap-server {endpoint.bootstrap} --add --allow-principal User:{user} "
        f"{wanted} --topic {topic}; all that perdure needs: docs/deployment.md, Rights"
    )
