"""Fixtures that several folders of tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka import Kafka, LocalKafka, or_skip, session_kafka


@pytest.fixture
def kafka() -> Kafka:
    """The session's Kafka, wherever it comes from."""
    return or_skip(session_kafka)


@pytest.fixture(scope="session")
def _own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    found = or_skip(session_kafka)
    if isinstance(found, LocalKafka):
        yield found
        return
    local = or_skip(lambda: LocalKafka(tmp_path_factory.mktemp("kafka") / "broker"))
    yield local
    local.stop()


@pytest.fixture
def broker(_own_broker: LocalKafka) -> Iterator[LocalKafka]:
    """One broker that may be killed; the next test finds it running."""
    yield _own_broker
    _own_broker.start()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalKafka]:
    """Three brokers, replication factor 3, min ISR 2, for this test alone."""
    found = or_skip(lambda: LocalKafka(tmp_path / "cluster", brokers=3))
    yield found
    found.stop()
