"""Helpers of a rebuild: what they fold is what the owner would have folded, and nobody is lost with them."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE
from typing import Any

import msgspec
import pytest
from rocksdict import Rdict
from tests.acceptance.harness import Deployment, add_each, deploy, names
from tests.acceptance.wire import PATIENCE_S
from tests.acceptance.witness import Witness
from tests.process import clean_environ

from perdure.schemas.errors import LogCorrupt
from perdure.streams.log.embedded.records import options
from perdure.streams.rebuild import coordinator
from perdure.streams.rebuild.verify import rebuild
from perdure.streams.rebuild.worker import FoldedSoFar, FoldedWhole, Job, Message
from perdure.streams.state.tables import Tables
from perdure.streams.store.rocks import RocksStore

KEYS = names(60)
SETTINGS = "rebuild_helpers = 2\n"
# A helper that is killed when it begins with its second partition.
KILLED = """
import os, signal
from perdure.streams.rebuild import worker as helper
fold, begun = helper.fold, []
async def once(log, tables, end, progress):
    begun.append(tables.partition)
    if len(begun) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return await fold(log, tables, end, progress)
helper.fold = once
helper.main()
"""
# A helper that never gets anywhere, and says who it is in a file.
STUCK = """
import asyncio, os, sys
from perdure.streams.rebuild import worker as helper
async def stuck(log, tables, end, progress):
    with open({pids!r}, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    await asyncio.Event().wait()
helper.fold = stuck
helper.main()
"""
SERVER = """
import sys
from perdure.streams.rebuild import coordinator as helping
helping.WORTH_RECORDS = 1
helping.PROGRAM = (sys.executable, "-c", {helper!r})
from perdure.api.cli import main
main()
"""


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Any journal is worth a helper; how many files were taken in, each time."""
    taken: list[int] = []
    take_in = RocksStore.take_in

    def counting(self: RocksStore, files: Any) -> None:
        files = list(files)
        taken.append(len(files))
        take_in(self, files)

    monkeypatch.setattr(coordinator, "WORTH_RECORDS", 1)
    monkeypatch.setattr(RocksStore, "take_in", counting)
    return taken


@pytest.fixture
def past(tmp_path: Path, log: str) -> tuple[Deployment, Witness]:
    """A stopped app that has lost its state."""
    deployment, witness = deploy(tmp_path, log=log, settings=SETTINGS), Witness()
    with deployment.serve() as server:
        add_each(server, witness, KEYS)
        add_each(server, witness, KEYS)
        assert server.stop() == 0
    shutil.rmtree(deployment.data / "state")
    return deployment, witness


def _use(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "PROGRAM", (sys.executable, "-c", program))


def test_a_node_takes_in_what_helpers_have_folded(
    past: tuple[Deployment, Witness], brought: list[int]
) -> None:
    """Three of four partitions come from two helpers; each object has all its changes, and verify agrees."""
    deployment, witness = past
    deployment.audit(witness)
    assert len(brought) == 3
    assert all(files >= 2 for files in brought)  # values, and the meta row
    assert not (deployment.data / "rebuild.tmp").exists()


def test_state_rebuild_counts_what_helpers_have_folded(
    past: tuple[Deployment, Witness], brought: list[int]
) -> None:
    """The command says the same numbers as without helpers, and each row is the same."""
    deployment, _ = past
    alone = deployment.build_anew(0)
    assert brought == []
    assert deployment.build_anew(2) == alone
    assert len(brought) == 3
    deployment.verify()


@pytest.mark.parametrize("log", ["embedded"])
def test_of_a_killed_helper_what_is_whole_counts_and_the_rest_is_folded_anew(
    past: tuple[Deployment, Witness],
    brought: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """SIGKILL between two partitions: the first is taken in, the owner folds the
    second, and a line says so.
    """
    deployment, witness = past
    _use(KILLED, monkeypatch)
    settings = deployment.folder / "perdure.toml"
    settings.write_text(settings.read_text().replace(SETTINGS, "rebuild_helpers = 1\n"))
    deployment.audit(witness)
    assert len(brought) == 1
    (told,) = _told(caplog)
    assert told.startswith("a helper of the rebuild ended (exit status -9); folding partitions ")


@pytest.mark.parametrize("log", ["embedded"])
@pytest.mark.parametrize("then", ["sys.stdin.readlines()", "pass"])
def test_a_helper_that_nobody_understands_is_ended(
    past: tuple[Deployment, Witness],
    brought: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    then: str,
) -> None:
    """Whatever else stands behind that name, and whether it ends by itself: the owners fold everything."""
    deployment, witness = past
    _use(f"import sys; print('hello', flush=True); {then}", monkeypatch)
    deployment.audit(witness)
    assert brought == []
    told = _told(caplog)
    assert len(told) == 2
    assert all("a helper of the rebuild" in each for each in told)
    assert all("it wrote a line that is not part of the protocol" in each for each in told)


@pytest.mark.parametrize("log", ["embedded"])
def test_without_any_helper_the_rebuild_goes_on(
    past: tuple[Deployment, Witness],
    brought: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No process can be started: a line says so, and the owners fold everything."""
    deployment, witness = past
    monkeypatch.setattr(coordinator, "PROGRAM", (str(deployment.folder / "no-python"),))
    deployment.audit(witness)
    assert brought == []
    assert all("no helper for the rebuild" in each for each in _told(caplog))
    assert _told(caplog)


@pytest.mark.parametrize("log", ["embedded"])
def test_a_damaged_journal_is_named_as_without_helpers(
    past: tuple[Deployment, Witness], brought: list[int]
) -> None:
    """The helper meets the damage first, the one who folds after it says where it is."""
    deployment, _ = past
    at = b"j" + (1).to_bytes(2, "big") + (5).to_bytes(8, "big")
    database = Rdict(str(deployment.data / "log"), options())
    row = bytearray(database[at])
    row[-2] ^= 1  # the last byte of the chain: one of headers, none, stands behind it
    database[at] = bytes(row)
    database.close()
    errors = []
    for helpers in (0, 3):
        with pytest.raises(LogCorrupt) as refused:
            asyncio.run(rebuild(deployment.config.model_copy(update={"rebuild_helpers": helpers})))
        errors.append(str(refused.value))
    assert errors[0] == errors[1]
    assert "journal of partition 1 at offset 5" in errors[0]


def test_of_one_partition_nothing_is_given_away(
    tmp_path: Path, brought: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The node would only look on."""
    deployment, witness = deploy(tmp_path, partitions=1, settings=SETTINGS), Witness()
    with deployment.serve() as server:
        add_each(server, witness, KEYS)
        assert server.stop() == 0
    shutil.rmtree(deployment.data / "state")
    _use("raise SystemExit(7)", monkeypatch)
    deployment.audit(witness)
    assert brought == []
    assert "helper" not in caplog.text


@pytest.mark.parametrize("log", ["embedded"])
def test_a_helper_ends_by_itself_when_its_work_is_done(
    past: tuple[Deployment, Witness], tmp_path: Path
) -> None:
    """In silence, though its stdin is open; of a journal that is cut behind its
    header there is the meta row.
    """
    deployment, _ = past
    config = deployment.config
    job = Job(config.name, config.log, str(config.data_dir), config.partitions, str(tmp_path / "own"), {2: 1})
    with subprocess.Popen(coordinator.PROGRAM, stdin=PIPE, stdout=PIPE, stderr=PIPE) as helper:
        assert helper.stdin is not None
        assert helper.stdout is not None
        assert helper.stderr is not None
        helper.stdin.write(msgspec.json.encode(job) + b"\n")
        helper.stdin.flush()
        far, whole = (msgspec.json.decode(line, type=Message) for line in helper.stdout)
        assert (helper.wait(PATIENCE_S), helper.stderr.read()) == (0, b"")
    assert far == FoldedSoFar(2, 1, 1)
    assert whole == FoldedWhole(2, 1, 0, [str(tmp_path / "own" / "2-m")])
    store = RocksStore(tmp_path / "state")
    store.take_in([tmp_path / "own" / "2-m"])
    assert Tables(store, 2).info.offset == 1
    store.close()


@pytest.mark.parametrize("log", ["embedded"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_helper_ends_with_its_node(
    past: tuple[Deployment, Witness], tmp_path: Path, sent: signal.Signals
) -> None:
    """The node is ended while helpers are at work: so are they, and what they left
    goes, at the latest with the next start.
    """
    deployment, witness = past
    pids = tmp_path / "pids"
    pids.touch()
    program = SERVER.format(helper=STUCK.format(pids=str(pids)))
    command = (sys.executable, "-c", program, "serve", str(deployment.folder), "--data", str(deployment.data))
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environ()
    ) as server:
        _until(lambda: len(pids.read_text().split()) == 2)
        server.send_signal(sent)
        assert server.wait(PATIENCE_S) == (0 if sent is signal.SIGTERM else -sent)
    for pid in map(int, pids.read_text().split()):
        _until(lambda pid=pid: not _runs(pid))
    assert (deployment.data / "rebuild.tmp").exists() == (sent is signal.SIGKILL)
    deployment.audit(witness)
    assert not (deployment.data / "rebuild.tmp").exists()


def _told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of helpers."""
    return [each.getMessage() for each in caplog.records if "helper" in each.getMessage()]


def _until(condition: Any) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False
