"""Fixtures that several folders of tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.streams.state.fold import GC_THRESHOLD
from tests.kafka import Kafka, LocalKafka, or_skip, session_kafka
from tests.warm import load_certificates_once
from tests.workers import Groups, rank


@pytest.fixture
def kafka() -> Kafka:
    """The session's Kafka, wherever it comes from."""
    return or_skip(session_kafka)


@pytest.fixture(params=["embedded", "kafka"])
def log(request: pytest.FixtureRequest) -> str:
    """Each of the logs that an app can run on, as its configuration calls it."""
    return "embedded" if request.param == "embedded" else f"kafka://{or_skip(session_kafka).bootstrap}"


@pytest.fixture(scope="session")
def _own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    made = or_skip(session_kafka)
    if isinstance(made, LocalKafka):
        yield made
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
    made = or_skip(lambda: LocalKafka(tmp_path / "cluster", brokers=3))
    yield made
    made.stop()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """Several workers: workers.py says who runs what."""
    return Groups(config, log)


load_certificates_once()


def pytest_collection_finish() -> None:
    """What is imported by now stays, and a tenth of all CPU time went into looking through it for garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a worker, what takes longest comes first."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=lambda item: rank(item.nodeid))
