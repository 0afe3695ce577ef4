"""Damaged, lost and full: what is found is named with its remedy, and nothing
acknowledged goes by silence.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.acceptance.harness import Deployment, add_each, deploy, names, port_of
from tests.acceptance.wire import PATIENCE_S, Answer, Wire, ask
from tests.acceptance.witness import Witness
from tests.process import DidNotStart, Server, run

from perdure.schemas.errors import LogCorrupt

KEYS = names(40)


class Past(NamedTuple):
    """A stopped app with a past, and its log as it was halfway."""

    deployment: Deployment
    witness: Witness
    halfway: Path

    def copy(self, path: Path) -> tuple[Deployment, Witness]:
        """One to spoil."""
        copied = Deployment(self.deployment.folder, path / "data")
        shutil.copytree(self.deployment.data, copied.data)
        return copied, Witness([replace(each) for each in self.witness.operations])


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    """40 objects of 3 kB each, so that the state fills many blocks, after two orderly stops."""
    path = tmp_path_factory.mktemp("past")
    deployment, witness = deploy(path), Witness()
    with deployment.serve() as server:
        asyncio.run(_fill(server, KEYS, 3_000))
        assert server.stop() == 0
    shutil.copytree(deployment.data / "log", path / "halfway")
    with deployment.serve() as server:
        add_each(server, witness, KEYS)
        assert server.stop() == 0
    return Past(deployment, witness, path / "halfway")


async def _fill(server: Server, keys: list[str], size_bytes: int) -> Answer | None:
    """One large value for each; returns the first answer that is not 200, None if there is none."""
    async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
        for key in keys:
            answer = await wire.ask("POST", f"/rpc/{key}/fill", b'{"args": [%d]}' % size_bytes)
            if answer.status != 200:
                return answer
    return None


def _refusal(deployment: Deployment) -> str:
    """What the server says that does not start: one line, no traceback."""
    with pytest.raises(DidNotStart) as refused, deployment.serve():
        pass
    assert refused.value.returncode == 1
    (line,) = refused.value.stderr.splitlines()
    return line


def _corruption(deployment: Deployment) -> str:
    """What a node (in this process) says that does not begin because of its log."""
    with pytest.raises(LogCorrupt) as refused:
        deployment.audit(Witness())
    return str(refused.value)


def _flip(file: Path, at: float) -> int:
    """Flip one bit at that share of a file; returns which byte."""
    content = bytearray(file.read_bytes())
    position = int(len(content) * at)
    content[position] ^= 0x10
    file.write_bytes(content)
    return position


def _wal(deployment: Deployment) -> Path:
    return max((deployment.data / "log").glob("*.log"))


def _killed(past: Past, path: Path) -> tuple[Deployment, Witness]:
    """A copy whose newest writes are in the write-ahead log only."""
    deployment, witness = past.copy(path)
    with deployment.serve() as server:
        add_each(server, witness, KEYS)
        server.kill()
    return deployment, witness


def test_a_torn_tail_is_cut_off_and_kept(past: Past, tmp_path: Path) -> None:
    """Half a record at the log's end, as a crash leaves it: it goes, a copy stays,
    all acknowledged is there.
    """
    deployment, witness = _killed(past, tmp_path)
    wal = _wal(deployment)
    whole = wal.read_bytes()
    length = int.from_bytes(whole[4:6], "little")
    wal.write_bytes(whole + whole[: 7 + length - 5])
    deployment.audit(witness)
    (copy,) = (deployment.data / "torn").iterdir()
    assert copy.name == f"{wal.name}.at-{len(whole)}"
    assert copy.read_bytes().startswith(whole)


def test_a_flipped_bit_in_the_write_ahead_log_stops_the_start(past: Past, tmp_path: Path) -> None:
    """Damage with acknowledged records behind it: file and byte are named, nothing is changed."""
    deployment, _ = _killed(past, tmp_path)
    wal = _wal(deployment)
    position = _flip(wal, 0.5)
    spoilt = wal.read_bytes()
    line = _refusal(deployment)
    assert line.startswith(f"perdure: log-corrupt: {wal} is damaged at byte ")
    named = int(line.partition("at byte ")[2].partition(":")[0])
    assert named <= position < named + 1000, f"{line}: the flipped byte is {position}"
    assert wal.read_bytes() == spoilt


def test_a_flipped_bit_in_a_table_of_the_log_stops_the_start(past: Past, tmp_path: Path) -> None:
    """What the log needs to begin is damaged: the file is named."""
    deployment, _ = past.copy(tmp_path)
    tables = sorted((deployment.data / "log").glob("*.sst"))
    for table in tables:
        _flip(table, 0.98)  # where its index and properties are
    line = _corruption(deployment)
    assert any(str(table) in line for table in tables), line
    assert "restore" in line


def test_a_state_ahead_of_its_log_stops_the_start(past: Past, tmp_path: Path) -> None:
    """The log was put back to an earlier day: both positions are named, and nothing
    is answered from the state.
    """
    deployment, _ = past.copy(tmp_path)
    shutil.rmtree(deployment.data / "log")
    shutil.copytree(past.halfway, deployment.data / "log")
    line = _corruption(deployment)
    assert line.startswith("the state of partition ")
    assert "ahead of its log" in line
    assert "perdure state rebuild" in line


def test_a_log_that_is_gone_stops_the_start(past: Past, tmp_path: Path) -> None:
    """An app that had a log never begins with an empty one."""
    deployment, _ = past.copy(tmp_path)
    shutil.rmtree(deployment.data / "log")
    line = _corruption(deployment)
    assert line.startswith(f"the log {deployment.data / 'log'} is gone")


def test_a_deleted_state_is_rebuilt(past: Past, tmp_path: Path) -> None:
    """The state directory is removed: the log has everything."""
    deployment, witness = past.copy(tmp_path)
    shutil.rmtree(deployment.data / "state")
    deployment.audit(witness)


async def _marks(server: Server) -> dict[str, Answer]:
    async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
        return {key: await wire.ask("POST", f"/rpc/{key}/mark", b'{"args": [7]}') for key in KEYS}


async def _counts(server: Server) -> dict[str, int]:
    async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
        return {key: (await wire.ask("GET", f"/objects/{key}/")).json["count"] for key in KEYS}


def test_a_damaged_block_of_the_state_stops_its_objects_and_rebuild_heals(past: Past, tmp_path: Path) -> None:
    """Objects behind a flipped bit answer 507 with the remedy and change nothing; the others go on."""
    deployment, _ = past.copy(tmp_path)
    table = max((deployment.data / "state").glob("*.sst"), key=lambda file: file.stat().st_size)
    for place in range(10, 15):  # where the values are: rows of their partitions lie in front of them
        _flip(table, place / 16)
    with deployment.serve() as server:
        answers = asyncio.run(_marks(server))
        assert server.stop() == 0, server.stderr()
    stopped = {key: answer for key, answer in answers.items() if answer.status != 200}
    assert 0 < len(stopped) < len(KEYS) / 2
    for answer in stopped.values():
        assert (answer.status, answer.code) == (507, "storage-failed")
        assert table.name in answer.json["detail"]
        assert "perdure state rebuild" in answer.json["detail"]
    found = run("verify", str(deployment.folder), "--data", str(deployment.data))
    assert found.returncode == 1
    assert found.stderr.startswith("perdure: store-corrupt: "), found.stderr
    healed = run("state", "rebuild", str(deployment.folder), "--data", str(deployment.data))
    assert healed.returncode == 0, healed.stderr
    with deployment.serve() as server:
        assert asyncio.run(_counts(server)) == {key: 1 if key in stopped else 7 for key in KEYS}


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 24 MiB, mounted."""
    path = tmp_path / "data"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    return path


def test_a_full_disk_stops_the_node_and_space_heals_it(tmp_path: Path, small_disk: Path) -> None:
    """No space: nobody is told yes, the process ends with the reason; with room again everything is there."""
    deployment, witness = deploy(tmp_path), Witness()
    try:
        with deployment.serve() as server:
            add_each(server, witness, KEYS)
            answer = asyncio.run(_fill(server, [f"Counter/f{n}" for n in range(60)], 900_000))
            assert answer is not None, "the disk did not fill up"
            assert answer.code in ("outcome-unknown", "storage-failed"), answer
            assert "No space left on device" in answer.json["detail"]
            assert server.wait() == 70
            assert "No space left on device" in server.stderr()
            assert str(small_disk / "log") in server.stderr()
        subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
        deployment.audit(witness)
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)


def test_a_second_process_on_one_directory_is_refused(past: Past, tmp_path: Path) -> None:
    """It is told who has the directory; the first goes on."""
    deployment, _ = past.copy(tmp_path)
    with deployment.serve() as server:
        line = _refusal(deployment)
        assert line.startswith("perdure: data-dir-error: ")
        assert f"process {server.pid}, " in line
        assert f"kill {server.pid}" in line
        assert asyncio.run(ask(port_of(server), "POST", f"/objects/{KEYS[0]}/x")).json == {"count": 2}
        assert server.stop() == 0
    deployment.verify()


def test_the_directory_of_another_app_is_refused(past: Past, tmp_path: Path) -> None:
    """Both apps are named."""
    other = deploy(tmp_path, name="other")
    line = _refusal(Deployment(other.folder, past.deployment.data))
    assert line.startswith("perdure: data-dir-error: ")
    assert "'acceptance'" in line
    assert "'other'" in line
