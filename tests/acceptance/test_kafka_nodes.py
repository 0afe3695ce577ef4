"""Several `perdure serve` on one app and a real Kafka share its partitions, hand them over, or lose them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.acceptance.harness import Deployment, port_of
from tests.acceptance.test_kafka_faults import PARTITIONS, Load, by_partition, deploy_on
from tests.acceptance.wire import PATIENCE_S, ask
from tests.acceptance.witness import Witness
from tests.kafka import Kafka
from tests.process import DidNotStart, Server

SECRET = "the secret that all nodes of this app share"
BACK_WITHIN_S = 10.0


def deploy_nodes(kafka: Kafka, path: Path, settings: str = "") -> Deployment:
    """The app with a secret that its nodes share."""
    (path / "secret").write_text(SECRET)
    return deploy_on(kafka, path, f'seal_secret_file = "{path / "secret"}"\n{settings}')


@contextlib.contextmanager
def node(deployment: Deployment, number: int, **environ: str) -> Iterator[Server]:
    """One more node of the app, with a data directory of its own."""
    own = Deployment(deployment.folder, deployment.data.with_name(f"data{number}"))
    with own.serve(environ=environ) as server:
        yield server


def until(condition: Callable[[], bool]) -> None:
    """Try again and again, each time over HTTP: nodes need seconds to be taken for gone."""
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, "it was not so in time"


def readyz(server: Server) -> Any:
    return asyncio.run(ask(port_of(server), "GET", "/readyz")).json


def owners(server: Server) -> dict[int, int]:
    """The process id of the node that serves each partition, as a node says."""
    return {
        each["partition"]: each.get("pid") for each in readyz(server)["owners"] if each["state"] == "serving"
    }


def shared(server: Server, among: list[Server]) -> bool:
    """True if the partitions are spread evenly over these nodes, by what one of them says."""
    pids = list(owners(server).values())
    counts = [pids.count(each.pid) for each in among]
    return sum(counts) == PARTITIONS and max(counts) - min(counts) <= 1


def check_administration(*servers: Server) -> None:
    """Each node shows each object and partition, acts on it, and knows what became of a command."""
    keys = list(by_partition().values())
    for key in keys:
        counts = [admin(server, f"objects/{key}/state")["values"]["count"] for server in servers]
        assert counts == sorted(counts), "it is written to meanwhile"
        for server in servers:
            assert admin(server, f"objects/{key}/pause", "POST") == {"paused": key}
            assert all(admin(each, f"objects/{key}")["paused"] for each in servers)
            assert len({json.dumps(admin(each, f"objects/{key}/state")) for each in servers}) == 1
            assert admin(server, f"objects/{key}/resume", "POST") == {"resumed": key}
    namespace = keys[0].partition("/")[0]
    assert len({json.dumps(admin(server, f"objects/{namespace}")) for server in servers}) == 1
    for server in servers:
        assert not any(each.get("stale") for each in admin(server, "partitions")["partitions"])
        for key in keys:
            sent = httpx.get(f"{server.url}/objects/{key}", headers={"prefer": "respond-async"}).json()
            for each in servers:
                status = httpx.get(f"{each.url}{sent['url']}?wait=10", timeout=20).json()
                assert (status["status"], status["object"]) == ("done", key), status


def admin(server: Server, path: str, method: str = "GET") -> Any:
    """What a node's administration answers."""
    answer = httpx.request(method, f"{server.url}/admin/{path}", timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_second_node_shares_and_leaves_again_without_a_failed_request(kafka: Kafka, tmp_path: Path) -> None:
    """Under load at the first node the second joins, serves half, and is ended by SIGTERM: every answer is
    200, by either node; when both have ended, the log bears out what was answered."""
    deployment, witness = deploy_nodes(kafka, tmp_path), Witness()
    with node(deployment, 1) as first:
        assert set(owners(first).values()) == {first.pid}
        load = Load(first, witness)
        load.oks(100)
        with node(deployment, 2) as second:
            assert shared(second, [first, second]), "a node is ready once it has its share"
            until(lambda: shared(first, [first, second]))
            more = Load(second, witness, seed=2)
            more.oks(200)
            load.oks(200)
            more.stop()
            assert more.told.keys() == {200}, more.told
            check_administration(first, second)
            assert second.stop() == 0, second.stderr()
            until(lambda: shared(first, [first]))
            load.oks(200)
        load.stop()
        assert load.told.keys() == {200}, load.told
        assert first.stop() == 0, first.stderr()
    Deployment(deployment.folder, deployment.data.with_name("data1")).audit(witness)


def test_a_killed_node_is_followed_and_one_that_was_stopped_takes_nothing_back(
    kafka: Kafka, tmp_path: Path
) -> None:
    """SIGKILL: another serves its partitions within 10 s. SIGSTOP for as long as it takes to lose them: its
    successor answers, it reads nothing stale, claims nothing, and joins as a new member."""
    deployment, witness = deploy_nodes(kafka, tmp_path, "standbys = 1\n"), Witness()
    with node(deployment, 1) as first, node(deployment, 2) as second:
        until(lambda: shared(first, [first, second]))
        load = Load(first, witness)
        load.oks(200)
        second.kill()
        killed_s = time.monotonic()
        until(lambda: shared(first, [first]))
        assert time.monotonic() - killed_s < BACK_WITHIN_S + 5, "the machine may be busy, but not so"
        load.oks(200)
        with node(deployment, 3) as third:
            until(lambda: shared(first, [first, third]))
            at_third = Load(third, witness, seed=3)
            at_third.oks(100)
            epochs = {each["partition"]: each["epoch"] for each in readyz(first)["owners"]}
            theirs = [partition for partition, pid in owners(first).items() if pid == third.pid]
            os.kill(third.pid, signal.SIGSTOP)
            until(lambda: shared(first, [first]))
            load.oks(100)
            os.kill(third.pid, signal.SIGCONT)
            until(lambda: shared(first, [first, third]))
            at_third.oks(100)
            at_third.stop()
            load.oks(100)
            load.stop()
            later = {each["partition"]: each["epoch"] for each in readyz(first)["owners"]}
            assert all(later[partition] > epochs[partition] for partition in theirs)
            assert load.told.keys() <= {200, 503}, load.told
            assert third.stop() == 0, third.stderr()
        assert first.stop() == 0, first.stderr()
    Deployment(deployment.folder, deployment.data.with_name("data1")).audit(witness)


def test_a_node_with_another_secret_is_refused(kafka: Kafka, tmp_path: Path) -> None:
    """It would take what the others seal for forgeries; the error says what to do, the others serve on."""
    deployment = deploy_nodes(kafka, tmp_path)
    with node(deployment, 1) as first:
        with (
            pytest.raises(DidNotStart, match="nodes of one app share a secret"),
            node(deployment, 2, PERDURE_SEAL_SECRET="a secret that no other node of this app has"),
        ):
            pass
        key = by_partition()[0]
        assert asyncio.run(ask(port_of(first), "GET", f"/objects/{key}")).status == 200
        assert first.stop() == 0
