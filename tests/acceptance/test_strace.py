"""Crashes, failures and delays at single system calls of a real server, by strace;
and what power loss leaves.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from tests.acceptance import strace
from tests.acceptance.harness import SOAK, Deployment, add_each, deploy, load, names, port_of, read_all
from tests.acceptance.powerloss import Disk
from tests.acceptance.strace import ALL, SYNCS, Point
from tests.acceptance.wire import ask
from tests.acceptance.witness import Operation, Witness
from tests.process import DidNotStart, Server

pytestmark = pytest.mark.strace

KEYS = names(5)


def _workload(server: Server, witness: Witness) -> int:
    """Some 30 commands, one after the other and five at a time, then an orderly
    stop; returns the exit code.
    """
    add_each(server, witness, KEYS * 4)

    async def at_once() -> None:
        async with asyncio.TaskGroup() as group:
            for key in KEYS:
                group.create_task(asyncio.to_thread(add_each, server, witness, [key]))

    asyncio.run(at_once())
    read_all(server, witness)
    return server.stop()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The trace of the workload, from an empty directory to the orderly stop; and where its data are."""
    path = tmp_path_factory.mktemp("points")
    deployment = deploy(path)
    with deployment.serve(prefix=strace.tracing(path / "trace")) as server:
        assert _workload(server, Witness()) == 0, server.stderr()
    return path / "trace", deployment.data


@pytest.fixture(scope="module")
def points(traced: tuple[Path, Path]) -> list[Point]:
    """Every sync and write of the workload."""
    return strace.points(*traced)


@pytest.fixture(scope="module")
def wal(points: list[Point], traced: tuple[Path, Path]) -> str:
    """The log's write-ahead log in a new directory: of those that RocksDB makes,
    the one with the commands.
    """
    of_the_log = [each for each in points if each.call in SYNCS and re.fullmatch(r"log/\d+\.log", each.file)]
    most = max(of_the_log, key=lambda each: each.nth)
    trace, data = traced
    # in whichever thread: on the event loop while the disk is quick
    syncs = [
        each for each in strace.read_trace(trace) if each.name in SYNCS and each.file == data / most.file
    ]
    assert sum(each.size_bytes is None for each in syncs) >= len(KEYS) * 4, (
        f"{most.file}: the log should be synced for each command"
    )
    return most.file


def _killed_at(path: Path, point: Point) -> bool:
    """Run the workload with a SIGKILL at the point, then hold what clients were
    told against what is there.
    """
    path.mkdir()
    deployment, witness = deploy(path), Witness()
    try:
        with deployment.serve(prefix=strace.striking(point, deployment.data, "signal=SIGKILL")) as server:
            code = _workload(server, witness)
    except DidNotStart as early:
        code = early.returncode
    deployment.audit(witness)
    return code == -signal.SIGKILL


def _sample(points: list[Point], wal: str, random: Random) -> list[Point]:
    """A few syncs and writes of the log's file, and a few of everything around it."""
    ours = [each for each in points if _comes_always(each, wal) and each.file == wal]
    others = [each for each in points if _comes_always(each, wal) and each.file != wal]
    by_time = [each for each in points if each.file.startswith("state/")]
    syncs, writes = ([each for each in ours if (each.call in SYNCS) is wanted] for wanted in (True, False))
    return [
        *(*random.sample(syncs, 3), *random.sample(writes, 2)),
        *(*random.sample(others, 2), *random.sample(by_time, 1)),
    ]


def _comes_always(point: Point, wal: str) -> bool:
    """Does each run come to it, on a slow machine and on a quick one?"""
    if point.file == wal:
        return point.nth <= len(KEYS) * 4  # those behind depend on how many commands share a write
    return not point.file.startswith("state/")  # flushed by the clock


def test_a_kill_at_any_sync_or_write_leaves_nothing_half_done(
    tmp_path: Path, points: list[Point], wal: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL right before a system call, each one a run of its own: start, work and stop alike."""
    chosen = points if SOAK else _sample(points, wal, Random(20))
    missed = []
    for number, point in enumerate(chosen):
        killed = _killed_at(tmp_path / f"{number}", point)
        if not killed:
            missed.append(point)
        if SOAK:
            with capsys.disabled():
                print(f"{'killed at' if killed else 'never came to'} {point}")
    assert not any(_comes_always(point, wal) for point in missed), missed
    nth = max(point.nth for point in points if point.file == wal)
    while SOAK and _killed_at(tmp_path / f"sync{nth}", Point("fdatasync", wal, nth)):
        nth += 1  # until a run ends without a kill


def _traced_run(path: Path) -> tuple[Deployment, Witness, list[strace.Call]]:
    """Work until the state has been flushed once in between, then a SIGKILL."""
    deployment, witness = deploy(path), Witness()
    with deployment.serve(prefix=strace.tracing(path / "trace", ALL)) as server:
        add_each(server, witness, KEYS)
        state = deployment.data / "state"
        before = set(state.glob("*.sst"))  # of a start that took so long that the clock came before us
        while set(state.glob("*.sst")) <= before:
            add_each(server, witness, KEYS * 4)
        add_each(server, witness, KEYS * 4)
        server.kill()
    return deployment, witness, list(strace.read_trace(path / "trace"))


def _known_at(witness: Witness, answers: int) -> Witness:
    """What clients knew when so many answers had left: the next command was under
    way, the rest not yet asked.
    """
    past = Witness([replace(each) for each in witness.operations[: answers + 1]])
    if len(past.operations) > answers:
        past.operations[-1] = replace(past.operations[-1], status=0, ended_s=float("inf"), place=None)
    return past


def _moments(calls: list[strace.Call], data: Path) -> Iterator[int]:
    """Interesting numbers of calls: those right before and after each sync of ours, and each answer."""
    for at, call in enumerate(calls):
        ours = call.file is None or call.file.is_relative_to(data)
        if ours and (call.file is None or call.name in SYNCS):
            yield at + 1


def test_power_loss_at_any_moment_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    """Only what was fsynced is left, or a part of the rest, or zeros in its
    place: each answer still holds.
    """
    deployment, witness, calls = _traced_run(tmp_path)
    disk = Disk(deployment.data)
    random = Random(6)
    total = sum(call.file is None and call.size_bytes is None for call in calls)
    assert total == sum(each.ok for each in witness.operations), "an answer is not one write to its socket"
    first = next(at for at, call in enumerate(calls) if call.file is None)
    flushed = next(
        at for at, call in enumerate(calls) if call.file and call.file.suffix == ".sst" and at > first
    )
    moments = [at for at in _moments(calls, deployment.data) if at > first]
    around = [at for at in moments if flushed - 20 < at < flushed + 60]
    chosen = {
        *random.sample(moments, 300 if SOAK else 6),
        *random.sample(around, 12 if SOAK else 5),
        len(calls),
    }
    at = 0
    for number, moment in enumerate(sorted(chosen)):
        for call in calls[at:moment]:
            disk.step(call)
        at = moment
        copy = replace(deployment, data=tmp_path / f"view{number}")
        disk.copy_to(copy.data, extra=random.choice((0.0, random.random(), 1.0)), zeros=random.random() < 0.3)
        copy.audit(_known_at(witness, disk.answers))


@pytest.mark.parametrize("call", ["fdatasync", "write"])
def test_a_disk_that_fails_ends_the_process_and_nothing_false_is_told(
    tmp_path: Path, wal: str, call: str
) -> None:
    """EIO from the log's fsync or write: who waits is told the outcome is unknown;
    exit 70, with the reason.
    """
    deployment, witness = deploy(tmp_path), Witness()
    prefix = strace.striking(Point(call, wal, 12), deployment.data, "error=EIO")
    with deployment.serve(prefix=prefix) as server:
        asyncio.run(load(port_of(server), witness, Random(12), KEYS, clients=8))
        assert server.wait() == 70
        told = server.stderr()
    doing = {"fdatasync": "sync", "write": "write"}[call]  # the first failure is told, not one that it led to
    assert f"storage-failed: cannot {doing} the log in {deployment.data / 'log'}: " in told, told
    assert "check the disk" in told, told
    assert "Traceback" not in told, told
    assert witness.unknown, "nothing was under way when the disk failed"
    deployment.audit(witness)


def test_a_slow_disk_delays_answers_and_reorders_nothing(tmp_path: Path, wal: str) -> None:
    """Each fsync takes longer than a command may: answers come late or say what is
    not known; none is wrong.
    """
    deployment, witness = deploy(tmp_path, settings="deadline_s = 0.2\n"), Witness()
    point = Point("fdatasync", wal, 12)
    prefix = strace.striking(point, deployment.data, "delay_enter=300000", more="+")
    with deployment.serve(prefix=prefix) as server:
        port = port_of(server)
        asyncio.run(
            load(
                port,
                witness,
                Random(13),
                KEYS,
                clients=16,
                # many commands may share a sync: on a slow machine 100 are over before the disk is
                go_on=lambda: len(witness.operations) < 100 or not _slow(witness),
            )
        )
        assert asyncio.run(ask(port, "GET", "/readyz")).status == 200
        assert server.stop() == 0, server.stderr()
    told = {each.status for each in witness.operations}
    assert told <= {200, 503, 504}, told
    assert _slow(witness), "the disk was not slow"
    deployment.audit(witness)


def _slow(witness: Witness) -> list[Operation]:
    """Those that were answered, and not at once."""
    return [each for each in witness.operations if 0.25 < each.ended_s - each.began_s < float("inf")]
