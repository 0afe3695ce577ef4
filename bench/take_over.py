"""`python -m bench.take_over`: how long a partition is without an owner when its node is killed.

Two nodes share an app on a real broker; its objects are written into the journals directly. One node is
killed (SIGKILL), and the time until the other has answered a write to each partition of the dead one is
printed: with warm standbys, from snapshots, and by a replay of the journal. The session time-out, after which
a silent node is gone, is part of it and printed beside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from tests.acceptance.harness import port_of
from tests.acceptance.wire import ask
from tests.kafka import LocalKafka
from tests.process import Server, serve, until

from perdure.schemas.commands import NOBODY
from perdure.schemas.journal import NO_COMMAND, Claim, Entry, Header
from perdure.schemas.keys import partition_of
from perdure.schemas.replies import OK, Reply
from perdure.schemas.values import encode_value
from perdure.streams.log.kafka.log import KafkaLog
from perdure.streams.opening import clock_ms, new_uuid
from perdure.streams.placement.members import BEAT_S, SILENT_TICKS
from perdure.streams.rescale.new_journal import NewJournal

EXAMPLE = Path(__file__).parents[1] / "examples" / "counter.py"
PARTITIONS = 8
WARM_S = 600.0  # until two nodes have settled, and followers have folded all
WAYS = ("standby", "snapshot", "replay")


async def write_objects(bootstrap: str, app: str, objects: int) -> None:
    """Write an app's journals as if it had this many counters, in a tenth of the time that commands take."""
    log = KafkaLog(bootstrap, app, PARTITIONS, clock_ms=clock_ms, client_id="take-over")
    await log.start()
    try:
        journals = [NewJournal(log, partition) for partition in range(PARTITIONS)]
        app_uuid = new_uuid()
        for partition, journal in enumerate(journals):
            header = Header(app, app_uuid, partition, PARTITIONS)
            claim = Claim(new_uuid(), "bench", "localhost", 1, None, dict(log.topic_ids), "", 0)
            await journal.begin(header, claim, ())
            await journal.mark("written by the bench", clock_ms())
        now_ms, value = clock_ms(), {"count": encode_value("count", 1)}
        for number in range(objects):
            key = f"Counter/n{number}"
            entry = Entry(NO_COMMAND, key, now_ms, OK, Reply(OK, 204), value, reply_to=NOBODY)
            await journals[partition_of(key, PARTITIONS)].add(entry)
        for journal in journals:
            await journal.end()
    finally:
        await log.close()


def readyz(server: Server) -> list[dict[str, Any]]:
    """What a node says of the partitions and their owners."""
    owners: list[dict[str, Any]] = httpx.get(f"{server.url}/readyz", timeout=30).json()["owners"]
    return owners


def settled(servers: Sequence[Server], *, warm: bool) -> bool:
    """True if the nodes share the partitions evenly and, if `warm`, a standby lacks little of each."""
    owners = readyz(servers[0])
    pids = [each.get("pid") for each in owners if each["state"] == "serving"]
    even = all(pids.count(server.pid) == PARTITIONS // len(servers) for server in servers)
    return even and (not warm or all(any(at["lag"] < 100 for at in each["standbys"]) for each in owners))


async def answered(port: int, partitions: Sequence[int], objects: int) -> dict[int, float]:
    """Seconds from now until a write to an object of each partition is answered."""
    began_s = time.monotonic()

    async def one(partition: int) -> tuple[int, float]:
        key = next(k for n in range(objects) if partition_of(k := f"Counter/n{n}", PARTITIONS) == partition)
        while (await ask(port, "POST", f"/objects/{key}")).status != 200:  # noqa: ASYNC110 - 503: ask again
            await asyncio.sleep(0.02)
        return partition, time.monotonic() - began_s

    return dict(await asyncio.gather(*map(one, partitions)))


def measure(bootstrap: str, way: str, objects: int) -> dict[str, Any]:
    """One take-over; seconds until the first and the last of the dead node's partitions serve again."""
    name = f"t{secrets.token_hex(4)}"
    asyncio.run(write_objects(bootstrap, name, objects))
    with tempfile.TemporaryDirectory(prefix="perdure-take-over-") as path, ExitStack() as running:
        folder = Path(path)
        app = folder / "app"
        app.mkdir()
        (app / "app.py").write_text(EXAMPLE.read_text())
        settings = (
            f'name = "{name}"\nmain = "app.py"\nlog = "kafka://{bootstrap}"\npartitions = {PARTITIONS}\n'
        )
        if way == "snapshot":
            settings += f'[snapshots]\nto = "file://{folder}/snapshots"\nevery = "1h"\n'
        (app / "perdure.toml").write_text(settings)
        environ = {"PERDURE_SEAL_SECRET": "s" * 40, "PERDURE_STANDBYS": str(int(way == "standby"))}
        began_s = time.monotonic()
        # the survivor begins after the other has everything: what it does not serve it has never seen
        first = running.enter_context(serve(app, folder / "data1", environ=environ))
        start_s = time.monotonic() - began_s
        if way == "snapshot":
            httpx.post(f"{first.url}/admin/snapshots/take", timeout=WARM_S).raise_for_status()
        second = running.enter_context(serve(app, folder / "data2", environ=environ))
        nodes = [second, first]
        until(lambda: settled(nodes, warm=way == "standby"), WARM_S)
        lost = [each["partition"] for each in readyz(second) if each["pid"] == first.pid]
        first.kill()
        times_s = asyncio.run(answered(port_of(second), lost, objects))
        assert second.stop() == 0, second.stderr()
    first_s, last_s = min(times_s.values()), max(times_s.values())
    return {
        "way": way,
        "objects": objects,
        "partitions": len(lost),
        "first_s": round(first_s, 2),
        "last_s": round(last_s, 2),
        "beyond_session_s": round(last_s - SILENT_TICKS * BEAT_S, 2),
        "start_of_all_s": round(start_s, 2),
    }


def main() -> None:
    """Print one line of JSON for each take-over."""
    parser = argparse.ArgumentParser(prog="python -m bench.take_over", description=__doc__)
    parser.add_argument("--objects", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="perdure-take-over-kafka-") as folder:
        kafka = LocalKafka(Path(folder) / "kafka")
        try:
            for _ in range(arguments.rounds):
                for objects in arguments.objects:
                    for way in arguments.ways:
                        print(json.dumps(measure(kafka.bootstrap, way, objects)), flush=True)
        finally:
            kafka.stop()


if __name__ == "__main__":
    main()
