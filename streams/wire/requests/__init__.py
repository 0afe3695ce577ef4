"""The requests that the listener answers, one file for each, by their numbers in the Kafka protocol.

The versions are the smallest set with which all clients that were measured work (docs/kafka.md).
"""

from __future__ import annotations

from types import MappingProxyType

from perdure.streams.wire.requests import (
    api_versions,
    create_topics,
    describe_configs,
    describe_groups,
    fetch,
    find_coordinator,
    heartbeat,
    init_producer_id,
    join_group,
    leave_group,
    list_groups,
    list_offsets,
    metadata,
    offset_commit,
    offset_fetch,
    produce,
    sasl_authenticate,
    sasl_handshake,
    sync_group,
)

APIS = MappingProxyType(
    {
        each.API.key: each.API
        for each in (
            api_versions,
            create_topics,
            describe_configs,
            describe_groups,
            fetch,
            find_coordinator,
            heartbeat,
            init_producer_id,
            join_group,
            leave_group,
            list_groups,
            list_offsets,
            metadata,
            offset_commit,
            offset_fetch,
            produce,
            sasl_authenticate,
            sasl_handshake,
            sync_group,
        )
    }
)
