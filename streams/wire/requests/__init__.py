"""The requests that the listener answers, one file for each, by their numbers in the Kafka protocol.

The versions are the smallest set with which all clients that were measured work (docs/kafka.md).
"""

from __future__ import annotations

from types import MappingProxyType

from perdure.streams.wire.requests import (
    api_versions,
    create_topics,
    describe_configs,
    fetch,
    init_producer_id,
    list_offsets,
    metadata,
    produce,
)

APIS = MappingProxyType(
    {
        each.API.key: each.API
        for each in (
            produce,
            fetch,
            list_offsets,
            metadata,
            api_versions,
            create_topics,
            init_producer_id,
            describe_configs,
        )
    }
)
