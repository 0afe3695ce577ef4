"""`perdure doctor`: checks what an app's promises rest on, and says how to mend what is not in order.

On Kafka the brokers, topics and rights (log/kafka/examine.py); on the embedded log the disk under the data
directory. The clock of this machine in both.

Laws
- The data of the app are not opened and not changed: it may be running. [test_doctor.py]
- Each finding that is not in order says how to mend it.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter, time

from perdure.schemas.config import Config
from perdure.schemas.findings import OK, REFUSED, WARNING, Finding
from perdure.streams.datadir import app_in, is_data_dir
from perdure.streams.opening import check_kafka_client

FSYNCS = 20
SLOW_FSYNC_MS = 20.0
FREE_BYTES, LOW_BYTES = (
    256 << 20,
    2 << 30,
)  # below the first a start may fail, below the second it is worth a warning
EARLIEST_S = 1_700_000_000  # a clock before this is not set
MEMORY = frozenset(("tmpfs", "ramfs"))
NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"))


async def examine(config: Config) -> list[Finding]:
    """The findings about the log that a configuration names. Raises `ConfigError` for settings that cannot
    be used."""
    findings = [clock_finding(time())]
    if not config.kafka_brokers:
        return [*findings, *disk_findings(config)]
    check_kafka_client(config)
    from perdure.streams.log.kafka.clients import Endpoint
    from perdure.streams.log.kafka.examine import examine as examine_kafka
    from perdure.streams.log.kafka.security import security_options

    endpoint = Endpoint(",".join(config.kafka_brokers), "perdure-doctor", security_options(config.kafka))
    return [*findings, *await examine_kafka(endpoint, config.name, config.partitions)]


def clock_finding(now_s: float) -> Finding:
    """The finding about the clock of this machine."""
    if now_s < EARLIEST_S:
        return Finding("clock of this machine", REFUSED, "it is not set", "set it, such as by NTP")
    return Finding("clock of this machine", OK, "it is set")


def disk_findings(config: Config) -> Iterator[Finding]:
    """The findings about the data directory and the disk under it."""
    path = config.data_dir
    try:
        exists = is_data_dir(path)
        folder = path if path.is_dir() else next(each for each in path.absolute().parents if each.is_dir())
        yield _directory(config, exists=exists)
        yield _file_system(folder)
        yield _space(folder)
        yield _fsync(folder)
    except OSError as error:
        mend = "check its rights, or choose another (--data)"
        yield Finding("data directory", REFUSED, f"{path} cannot be used: {error.strerror}", mend)


def _directory(config: Config, *, exists: bool) -> Finding:
    path = config.data_dir
    if not exists:
        return Finding("data directory", OK, f"{path} is made by the first start")
    made = app_in(path)
    if made.app != config.name:
        mend = "choose another directory (--data)"
        return Finding("data directory", REFUSED, f"{path} belongs to the app {made.app!r}", mend)
    if made.partitions != config.partitions:
        return Finding(
            "data directory",
            REFUSED,
            f"{path} has {made.partitions} partitions, {config.partitions} are configured",
            f"set partitions = {made.partitions}, or run perdure rescale --partitions {config.partitions}",
        )
    return Finding("data directory", OK, f"{path} is that of {made.app}")


def _file_system(folder: Path) -> Finding:
    kind = _kind_of_file_system(folder)
    if kind in MEMORY:
        return Finding(
            "file system", WARNING, f"{kind}: nothing survives a restart of the machine", "use a disk"
        )
    if kind in NETWORK:
        text = f"{kind}: acknowledged writes are as durable as its server's fsync and locks are"
        return Finding("file system", WARNING, text, "use a local disk")
    return Finding("file system", OK, kind or "not known")


def _kind_of_file_system(folder: Path) -> str:
    """Its kind, as Linux names it; empty where that cannot be read."""
    best, kind = "", ""
    with suppress(OSError):
        place = str(folder.resolve())
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, at, name, *_ = line.split(" ")
            inside = place == at or place.startswith(at.rstrip("/") + "/")
            if inside and len(at) >= len(best):
                best, kind = at, name
    return kind


def _space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / (1 << 30):.1f} GiB are free"
    if free < FREE_BYTES:
        return Finding("free space", REFUSED, f"{text}: the log could not be opened", "free some space")
    if free < LOW_BYTES:
        return Finding("free space", WARNING, f"{text}: a full disk ends the node", "free some space")
    return Finding("free space", OK, text)


def _fsync(folder: Path) -> Finding:
    times_ms = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(FSYNCS):
            file.write(b"x" * 4096)
            file.flush()
            began_s = perf_counter()
            os.fsync(file.fileno())
            times_ms.append((perf_counter() - began_s) * 1000)
    median, worst = statistics.median(times_ms), max(times_ms)
    text = f"{median:.2f} ms (median), {worst:.1f} ms (worst of {FSYNCS})"
    if median > SLOW_FSYNC_MS:
        return Finding(
            "fsync", WARNING, f"{text}: each write waits for one", "use a faster disk, such as an SSD"
        )
    return Finding("fsync", OK, text)
