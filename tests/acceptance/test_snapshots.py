"""Snapshots of a running app: a node without state starts from the newest good one, whatever dies
meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.acceptance.harness import SOAK, Deployment, add_each, deploy, names, read_all
from tests.acceptance.witness import Witness
from tests.process import DidNotStart, Server, run
from tests.s3 import CREDENTIALS, s3_server
from tests.warm import FORKED_WORKERS

from perdure.schemas.values import encode_value
from perdure.streams.log.base import Topic
from perdure.streams.opening import open_data, start_log
from perdure.streams.store.rocks import RocksStore

KEYS = names(60)
SECRET = {"PERDURE_SEAL_SECRET": "a secret that both data directories have"}


def place(folder: Path) -> str:
    """The settings of snapshots in a folder."""
    return f'[snapshots]\nto = "file://{folder}"\nevery = "1h"\nkeep = 2\n'


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked, where they are not what is tested: each start would take 0.4 s of CPU."""
    monkeypatch.setenv(FORKED_WORKERS, "1")


@pytest.fixture
def app(tmp_path: Path, log: str) -> tuple[Deployment, Witness]:
    return deploy(
        tmp_path, log=log, settings=place(tmp_path / "snapshots"), name=f"s{tmp_path.name[-30:]}"
    ), Witness()


def take(server: Server) -> list[dict[str, Any]]:
    """Have a snapshot of each partition taken; what was taken."""
    answer = httpx.post(f"{server.url}/admin/snapshots/take", timeout=60)
    assert answer.status_code == 200, answer.text
    snapshots: list[dict[str, Any]] = answer.json()["snapshots"]
    return snapshots


def forget_state(deployment: Deployment) -> None:
    """What a new node has: on Kafka nothing at all, on the embedded log the log alone."""
    if deployment.config.kafka_brokers:
        shutil.rmtree(deployment.data)
    else:
        shutil.rmtree(deployment.data / "state")


def perdure(deployment: Deployment, *arguments: str, environ: dict[str, str] = SECRET) -> Any:
    """What `perdure snapshot ...` prints as JSON."""
    words = ["snapshot", *arguments, str(deployment.folder), "--data", str(deployment.data), "--json"]
    result = run(*words, environ=environ)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_new_node_starts_from_a_snapshot(app: tuple[Deployment, Witness]) -> None:
    """Snapshots, more changes, another node: it reads the rows, replays the tail, and each change is there
    once.
    """
    deployment, witness = app
    with deployment.serve(environ=SECRET) as server:
        add_each(server, witness, KEYS)
        first = take(server)
        assert len(first) == 4
        assert all(each["files_sent"] == each["files"] for each in first)
        add_each(server, witness, KEYS[:10])
        second = take(server)
        assert {each["partition"] for each in second} == {0, 1, 2, 3}
        add_each(server, witness, KEYS)
        listed = httpx.get(f"{server.url}/admin/snapshots").json()["snapshots"]
        assert {each["name"] for each in (*first, *second)} == {each["name"] for each in listed}
        assert server.stop() == 0
    forget_state(deployment)
    with deployment.serve(environ=SECRET) as server:
        assert server.stderr().count("the partition starts from a snapshot") == 4
        read_all(server, witness)
        add_each(server, witness, KEYS)
        assert server.stop() == 0
    deployment.audit(witness)
    result = perdure(deployment, "verify", "--replay")
    assert result["failed"] == []
    assert result["snapshots"] == 8
    assert all(each["verified"] for each in perdure(deployment, "list")["snapshots"])


def _damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _newest(folder: Path) -> dict[Path, Path]:
    """The newest manifest of each partition's folder."""
    return {each: max((each / "manifests").iterdir()) for each in folder.iterdir()}


def _damage_manifests(folder: Path) -> None:
    for manifest in _newest(folder).values():
        _damage(manifest)


def _damage_files(folder: Path) -> None:
    for partition, manifest in _newest(folder).items():
        last = json.loads(manifest.read_text())["files"]
        for entry in last:
            _damage(partition / "files" / entry["sha256"])


def _lose_files(folder: Path) -> None:
    for partition, manifest in _newest(folder).items():
        (partition / "files" / json.loads(manifest.read_text())["files"][-1]["sha256"]).unlink()


@pytest.mark.parametrize("log", ["embedded"])
@pytest.mark.parametrize(
    ("wrong", "why", "restored"),
    [
        (_lose_files, "has lost its file", None),
        (_damage_manifests, "it was changed", 4),
        (_damage_files, "does not have the SHA-256 of its manifest", None),
    ][: None if SOAK else 1],
)
@pytest.mark.usefixtures("forked")
def test_a_damaged_snapshot_is_named_and_the_next_older_or_the_journal_serves(
    app: tuple[Deployment, Witness],
    tmp_path: Path,
    wrong: Callable[[Path], None],
    why: str,
    restored: int | None,
) -> None:
    """The newest of each partition is damaged: an error names it, and all changes are there all the same."""
    deployment, witness = app
    with deployment.serve() as server:
        add_each(server, witness, KEYS)
        take(server)
        add_each(server, witness, KEYS)
        take(server)
        assert server.stop() == 0
    wrong(tmp_path / "snapshots" / deployment.config.name)
    forget_state(deployment)
    result = run("snapshot", "verify", str(deployment.folder), "--data", str(deployment.data))
    assert result.returncode == 1
    assert why in result.stderr
    assert result.stdout.endswith("FAILED\n")
    with deployment.serve() as server:
        assert server.stderr().count("a snapshot cannot be used") >= 4
        assert why in server.stderr()
        if restored is not None:
            assert server.stderr().count("the partition starts from a snapshot") == restored
        read_all(server, witness)
        take(server)
        assert server.stop() == 0
    deployment.audit(witness)


# where a process dies, in which pass; the node, or the process beside it
DEATHS = [("snapshot.before_file", 3), ("snapshot.before_manifest", 2), ("snapshot.after_manifest", 2)]


@pytest.mark.parametrize("log", ["embedded"])
@pytest.mark.parametrize(("name", "at"), DEATHS[: None if SOAK else 1])
def test_a_snapshot_that_is_killed_harms_nothing(app: tuple[Deployment, Witness], name: str, at: int) -> None:
    """SIGKILL of the process that takes them: the node serves on, what is listed is whole, the next is
    complete.
    """
    deployment, witness = app
    with deployment.serve(environ={"PERDURE_FAILPOINT": f"{name}:{at}"}) as server:
        add_each(server, witness, KEYS)
        answer = httpx.post(f"{server.url}/admin/snapshots/take", timeout=60)
        assert answer.status_code == 507, answer.text
        assert "exit status -9" in answer.text
        add_each(server, witness, KEYS)
        assert server.stop() == 0
    assert perdure(deployment, "verify")["failed"] == []
    with deployment.serve() as server:
        assert len(take(server)) == 4
        assert server.stop() == 0
    forget_state(deployment)
    with deployment.serve() as server:
        assert server.stderr().count("the partition starts from a snapshot") == 4
        assert server.stop() == 0
    deployment.audit(witness)


@pytest.mark.parametrize("log", ["embedded"])
@pytest.mark.parametrize(
    "name", ["snapshot.before_ingest", "snapshot.after_ingest", "snapshot.read_file"][: None if SOAK else 1]
)
@pytest.mark.usefixtures("forked")
def test_a_start_from_a_snapshot_that_is_killed_begins_again(
    app: tuple[Deployment, Witness], name: str
) -> None:
    """SIGKILL while rows are read or taken in: the next start has all changes, and its state is a
    replay's.
    """
    deployment, witness = app
    with deployment.serve() as server:
        add_each(server, witness, KEYS)
        take(server)
        add_each(server, witness, KEYS)
        assert server.stop() == 0
    forget_state(deployment)
    environ = {"PERDURE_FAILPOINT": f"{name}:2"}
    if name == "snapshot.read_file":  # in the process beside the node, which serves without it
        with deployment.serve(environ=environ) as server:
            assert "exit status -9" in server.stderr()
            read_all(server, witness)
            assert server.stop() == 0
    else:
        with pytest.raises(DidNotStart) as died, deployment.serve(environ=environ):
            pass
        assert died.value.returncode == -9
    deployment.audit(witness)
    assert not (deployment.data / "snapshots.tmp").exists()


@pytest.mark.parametrize("log", ["embedded"])
@pytest.mark.usefixtures("forked")
def test_snapshots_of_a_stopped_app(app: tuple[Deployment, Witness], tmp_path: Path) -> None:
    """`take` beside the stopped app, `list`, `verify`, `prune`: each prints what it did; a running app is
    named.
    """
    deployment, witness = app
    with deployment.serve() as server:
        add_each(server, witness, KEYS)
        refused = run("snapshot", "take", str(deployment.folder), "--data", str(deployment.data))
        assert refused.returncode == 1
        assert f"is in use by process {server.pid}" in refused.stderr
        result = run("snapshot", "take", "--url", server.url, "--json")
        assert len(json.loads(result.stdout)["snapshots"]) == 4
        assert server.stop() == 0
    for _ in range(3):
        with deployment.serve() as server:
            add_each(server, witness, KEYS)
            assert server.stop() == 0
        assert len(perdure(deployment, "take")["snapshots"]) == 4
    assert len(perdure(deployment, "list")["snapshots"]) == 16
    pruned = perdure(deployment, "prune")
    assert len(pruned["removed"]) == 8
    assert pruned["files"] > 0
    assert perdure(deployment, "prune") == {"removed": [], "files": 0, "bytes": 0}
    assert len(perdure(deployment, "list")["snapshots"]) == 8
    assert perdure(deployment, "verify")["failed"] == []


@pytest.mark.parametrize("log", ["embedded"])
@pytest.mark.usefixtures("forked")
def test_a_foreign_snapshot_is_refused(app: tuple[Deployment, Witness], tmp_path: Path) -> None:
    """Two apps of one name use one folder: each names the other's snapshots as foreign, and starts from its
    own.
    """
    deployment, witness = app
    (tmp_path / "other").mkdir()
    other = deploy(tmp_path / "other", settings=place(tmp_path / "snapshots"), name=deployment.config.name)
    for each, rounds in ((deployment, 1), (other, 3)):
        with each.serve() as server:
            for _ in range(rounds):
                add_each(server, witness if each is deployment else Witness(), KEYS)
            take(server)
            assert server.stop() == 0
    forget_state(deployment)
    with deployment.serve() as server:
        assert server.stderr().count("it is foreign") == 4
        assert server.stderr().count("the partition starts from a snapshot") == 4
        assert server.stop() == 0
    deployment.audit(witness)


@pytest.fixture
def retaining(tmp_path: Path, log: str) -> tuple[Deployment, Witness]:
    """An app whose journal is kept for a moment behind a verified snapshot."""
    settings = 'keep_journal = "1ms"\n' + place(tmp_path / "snapshots").replace("keep = 2", "keep = 1")
    return deploy(tmp_path, log=log, settings=settings, name=f"r{tmp_path.name[-30:]}"), Witness()


def starts(deployment: Deployment) -> list[int]:
    """Where the journals of a stopped app begin."""

    async def read() -> list[int]:
        data = open_data(deployment.config)
        try:
            log = await start_log(deployment.config, data, "starts")
            try:
                return [(await log.bounds(Topic.JOURNAL, each)).start for each in range(log.partitions)]
            finally:
                await log.close()
        finally:
            data.close()

    return asyncio.run(read())


def check_all(deployment: Deployment, witness: Witness) -> None:
    """Each object has its count, and the state is what snapshot and tail give."""
    with deployment.serve(environ=SECRET) as server:
        read_all(server, witness)
        assert server.stop() == 0
    for key, operations in witness.by_object().items():
        assert operations[-1].told == b'{"count":%d}' % sum(each.adds for each in operations), key
    result = run("verify", str(deployment.folder), "--data", str(deployment.data), environ=SECRET)
    assert result.stdout.endswith("OK\n"), result.stderr


@pytest.mark.parametrize("log", ["embedded", *(["kafka"] if SOAK else [])])
@pytest.mark.usefixtures("forked")
def test_a_journal_that_was_trimmed_begins_with_a_snapshot(retaining: tuple[Deployment, Witness]) -> None:
    """Verified, trimmed, and from then on: a restart, a node without state, verify and rebuild all know
    it.
    """
    deployment, witness = retaining
    with deployment.serve(environ=SECRET) as server:
        add_each(server, witness, KEYS)
        take(server)
        add_each(server, witness, KEYS[:20])
        take(server)
        assert server.stop() == 0, server.stderr()
        assert server.stderr().count("the journal was trimmed") >= 4
    assert all(start > 10 for start in starts(deployment))
    shutil.rmtree(deployment.data / "state")
    check_all(deployment, witness)
    words = ["state", "rebuild", str(deployment.folder), "--data", str(deployment.data)]
    result = run(*words, environ=SECRET)
    assert result.returncode == 0, result.stderr
    forget_state(deployment)
    check_all(deployment, witness)
    shutil.rmtree(deployment.data.parent / "snapshots")
    result = run(*words, environ=SECRET)
    assert result.returncode == 1
    assert "its state needs a snapshot" in result.stderr
    check_none = run("verify", str(deployment.folder), "--data", str(deployment.data), environ=SECRET)
    assert "its state needs a snapshot" in check_none.stderr
    with deployment.serve(environ=SECRET) as server:  # the state is all there is, and it is untouched
        read_all(server, witness)
        assert server.stop() == 0
    shutil.rmtree(deployment.data / "state")
    with pytest.raises(DidNotStart, match="snapshot"), deployment.serve(environ=SECRET):
        pass


@pytest.mark.parametrize("log", ["embedded"])
@pytest.mark.usefixtures("forked")
def test_a_state_that_a_replay_does_not_give_trims_nothing(retaining: tuple[Deployment, Witness]) -> None:
    """A row was changed by something else than perdure: the snapshot is not verified, an error says so."""
    deployment, witness = retaining
    with deployment.serve() as server:
        add_each(server, witness, KEYS)
        assert server.stop() == 0
    store = RocksStore(deployment.data / "state")
    changed = [(key, value) for key, value in store.scan(b"v", b"w") if b"count" in key]
    store.write((), [(key, encode_value("count", 1_000)) for key, value in changed])
    store.close()
    with deployment.serve() as server:
        take(server)
        assert server.stop() == 0
        assert server.stderr().count("is not what a replay of the journal gives") == 4
    assert starts(deployment) == [0, 0, 0, 0]
    shutil.rmtree(deployment.data / "state")
    shutil.rmtree(deployment.data.parent / "snapshots")
    deployment.audit(witness)


@pytest.mark.parametrize("log", ["embedded"])
@pytest.mark.parametrize(
    "name",
    [
        *["snapshot.before_trim", "snapshot.before_mark", "snapshot.before_base"],
        *["snapshot.after_mark", "snapshot.after_trim", "snapshot.before_prune"],
    ][: None if SOAK else 1],
)
@pytest.mark.usefixtures("forked")
def test_a_trim_that_is_killed_goes_on(retaining: tuple[Deployment, Witness], name: str) -> None:
    """SIGKILL while a snapshot is marked or older ones are removed, or between base and trim: the next round
    trims, and nothing is lost.
    """
    deployment, witness = retaining
    with deployment.serve(environ={**SECRET, "PERDURE_FAILPOINT": f"{name}:2"}) as server:
        add_each(server, witness, KEYS)
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(f"{server.url}/admin/snapshots/take", timeout=60)
        server.stop()
    with deployment.serve(environ=SECRET) as server:
        add_each(server, witness, KEYS[:20])
        take(server)
        assert server.stop() == 0
    assert all(starts(deployment))
    forget_state(deployment)
    check_all(deployment, witness)


@pytest.mark.usefixtures("forked")
def test_snapshots_in_an_object_store(tmp_path: Path) -> None:
    """S3, by a server that speaks it: taken, verified, started from; its secret is in no output."""
    with s3_server() as store:
        settings = f'[snapshots]\nto = "{store.bucket()}"\nendpoint = "{store.endpoint}"\n'
        deployment, witness = deploy(tmp_path, settings=settings), Witness()
        environ = {**SECRET, **CREDENTIALS}
        with deployment.serve(environ=environ) as server:
            add_each(server, witness, KEYS)
            first = take(server)
            add_each(server, witness, KEYS[:5])
            again = take(server)
            assert sum(each["files_sent"] for each in again) < sum(each["files_sent"] for each in first)
            assert server.stop() == 0
            said = server.stderr()
        forget_state(deployment)
        with deployment.serve(environ=environ) as server:
            said += server.stderr()
            assert said.count("the partition starts from a snapshot") == 4
            read_all(server, witness)
            assert server.stop() == 0
        result = perdure(deployment, "verify", "--replay", environ=environ)
        assert result["failed"] == []
        shown = run("config", "show", str(deployment.folder), environ=environ)
        assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in said + shown.stdout + shown.stderr
    refused = run("snapshot", "list", str(deployment.folder), "--data", str(deployment.data), environ=environ)
    assert refused.returncode == 1
    assert "storage-failed: cannot list snapshots at s3://" in refused.stderr
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in refused.stderr
