"""Another number of partitions: the app is the same behind it, and a death on the way leaves one of both."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.integration.test_migrations import NAMES, OLD, V1, counts, deployed
from tests.process import DidNotStart, run, serve

from perdure.schemas.admin import MADE, Change, encode_record
from perdure.schemas.calls import NOWHERE, CallKey
from perdure.schemas.effects import AlarmChange, SocketChange
from perdure.schemas.errors import StoreCorrupt
from perdure.schemas.journal import NO_COMMAND, Claim, Entry, Header
from perdure.schemas.keys import partition_of
from perdure.schemas.migrations import Step
from perdure.schemas.replies import OK, PARKED, Reply, error_reply
from perdure.streams.log.base import Record, Topic
from perdure.streams.log.embedded.log import EmbeddedLog
from perdure.streams.rescale import copying
from perdure.streams.rescale.compare import EqualCounts, compare
from perdure.streams.rescale.holdings import UnderWay, under_way
from perdure.streams.rescale.new_journal import NewJournal
from perdure.streams.state.fold import fold, write_out
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore

NOW_MS = 1_800_000_000_000
STEP = Step("v1", created=(("Counter", "Counter"),))
REPLY = Reply(OK, 200, body=b"1")
RECORD = encode_record((b"Counter/stuck", b"{}", (("perdure-kind", b"call"),)))
KEPT = CallKey("call", NOWHERE, NOWHERE, 1, "p" * 20, "c" * 20)


def entry(key: str, command: int = NO_COMMAND, **more: object) -> Entry:
    fields = {"reply": REPLY, "reply_to": "-"} | more
    return Entry(command, key, NOW_MS, OK, **fields)  # type: ignore[arg-type]  # by name


def everything(key: str, offset: int) -> list[Entry]:
    """Entries that leave something of each kind of an object, the command of the first at `offset`."""
    failed = error_reply(PARKED, "handler-failed", "it failed", {"a": 1})
    return [
        entry(key, offset, puts={"a": b"1", "b": b"2" * 100, "\0ttl": b"3"}, changes=(Change(MADE),), principal="ann"),
        entry(key, client_key="k1", principal="ann", payload_hash=b"h" * 16),
        entry(key, client_key=str(KEPT._replace(content=key.rjust(20, "x"))), principal="@Other/a", payload_hash=b"g"),
        entry(key, alarms=(AlarmChange("", NOW_MS + 1), AlarmChange("daily", NOW_MS + 2, 0, "0 3 * * *", "UTC"))),
        entry(key, reply=failed, summary="alarm late", alarms=(AlarmChange("late", NOW_MS, 6, parked=True),)),
        entry(key, sockets=(SocketChange("s1", "node:1", ("room",), b"attached", True),)),
        entry(key, principal="operator", changes=(Change("paused"),)),
        Entry(offset + 1, key, NOW_MS, PARKED, failed, reply_to="-", summary="call", changes=(Change("parked", record=RECORD),)),
    ]  # fmt: skip


async def app_with(path: Path, partitions: int, keys: Sequence[str]) -> tuple[EmbeddedLog, list[Tables]]:
    """A log whose objects have something of each kind, as an orderly stop left it, and its tables."""
    log = EmbeddedLog(path, partitions, clock_ms=lambda: NOW_MS)
    await log.start()
    for partition in range(partitions):
        journal = NewJournal(log, partition)
        await journal.begin(Header("shop", "uuid", partition, partitions), Claim("c", "n", "h", 1), (STEP,))
        for key in keys:
            if partition_of(key, partitions) == partition:
                offset = await journal.command(Record(key.encode(), b"{}"))
                await journal.command(Record(key.encode(), b"{}"))
                for each in everything(key, offset):
                    await journal.add(each)
        await journal.end()
    return log, await folded(log)


async def folded(log: EmbeddedLog) -> list[Tables]:
    store = MemoryStore()
    tables = [Tables(store, partition, exclusive=True) for partition in range(log.partitions)]
    for each in tables:
        await fold(log, each, (await log.bounds(Topic.JOURNAL, each.partition)).end)
        await write_out(each)
    return tables


async def copied(old: Sequence[Tables], path: Path, partitions: int) -> tuple[EmbeddedLog, EqualCounts]:
    log = EmbeddedLog(path, partitions, clock_ms=lambda: NOW_MS)
    await log.start()
    try:
        await copying.copy(old, log, "shop", "uuid")
        return log, await copying.checked(old, log, MemoryStore(), lambda *_: None)
    except BaseException:
        await log.close()
        raise


KEYS = [f"Counter/n{n}" for n in range(40)]


@pytest.mark.parametrize(("before", "between"), [(2, 5), (3, 1), (1, 4)])
def test_everything_that_an_object_has_is_there_behind_a_rescale(
    before: int, between: int, tmp_path: Path
) -> None:
    """Values, alarms, WebSockets, keys, calls, creators, pauses and what is parked: there and back again."""

    async def story() -> None:
        log, old = await app_with(tmp_path / "old", before, KEYS)
        there, compared = await copied(old, tmp_path / "there", between)
        assert compared == EqualCounts(len(KEYS), 2 * len(KEYS), 2 * len(KEYS))
        new = await folded(there)
        for key in KEYS:
            tables = new[partition_of(key, between)]
            assert dict(tables.values.scan(key, "", None)) == {"a": b"1", "b": b"2" * 100, "\0ttl": b"3"}
            assert {name: row.parked for name, row in tables.alarms.of(key).items()} == {
                "": False, "daily": False, "late": True,
            }  # fmt: skip
            assert tables.creators.of(key) == "ann"
            spent = tables.spent_keys.get(key, "ann", "k1")
            assert spent is not None
            assert spent.reply == REPLY
            assert tables.admin.paused[key].principal == "operator"
        assert sum(count for tables in new for _, count in tables.creators.counts()) == len(KEYS)
        assert all(tables.meta.clean and tables.meta.out > 2 for tables in new)
        ends = [(await there.bounds(Topic.COMMANDS, p)).end for p in range(between)]
        assert [under_way(tables, end) for tables, end in zip(new, ends, strict=True)] == [None] * between
        back, again = await copied(new, tmp_path / "back", before)
        assert again == compared
        await compare(old, await folded(back))
        for each in (log, there, back):
            await each.close()

    asyncio.run(story())


def lost(what: str, true: Callable[..., Iterator[Entry]]) -> Callable[..., Iterator[Entry]]:
    """The export, with the first entry that has something of `what` altered."""

    def planted(tables: Tables, time_ms: int) -> Iterator[Entry]:
        from msgspec.structs import replace

        done = tables.partition > 0
        for each in true(tables, time_ms):
            value = getattr(each, what)
            if done or not value:
                yield each
                continue
            done = True
            if what == "puts":
                yield replace(each, puts={**value, "a": b"changed"})
            elif what == "client_key":
                yield replace(each, payload_hash=b"other")
            elif what == "principal":
                yield replace(each, principal=f"{value}!", client_key=None)
            else:
                yield replace(each, **{what: value[1:]})

    return planted


@pytest.mark.parametrize("what", ["puts", "alarms", "sockets", "changes", "client_key", "principal"])
def test_each_kind_of_difference_is_found(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that lost or changed one thing of one object is refused."""
    monkeypatch.setattr(copying, "entries_of", lost(what, copying.entries_of))

    async def story() -> None:
        log, old = await app_with(tmp_path / "old", 2, KEYS)
        with pytest.raises(StoreCorrupt, match="the copy differs from the original in "):
            await copied(old, tmp_path / "new", 3)
        await log.close()

    asyncio.run(story())


def test_what_is_under_way_is_refused(tmp_path: Path) -> None:
    """Commands that are not done, output that may not have arrived, calls that an alarm goes on from."""

    async def story() -> None:
        log, (tables, *_) = await app_with(tmp_path / "log", 1, KEYS[:1])
        assert under_way(tables, tables.done.mark) is None
        waiting = under_way(tables, tables.done.mark + 2)
        assert isinstance(waiting, UnderWay)
        assert waiting.what == "2 commands are not done"
        assert f"{KEYS[0]} is paused: resume it" in waiting.mend
        tables.meta.low -= 1
        sent = under_way(tables, tables.done.mark)
        assert sent is not None
        assert "is not known to have arrived" in sent.what
        tables.meta.low += 1
        tables._fold_entry(entry(KEYS[0], alarms=(AlarmChange("", NOW_MS, 1, since=7),)), 99)
        alarm = under_way(tables, tables.done.mark)
        assert alarm is not None
        assert f"the alarm of {KEYS[0]} has failed after it made calls" in alarm.what
        await log.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("failpoint", "switched"),
    [
        ("rescale.appended:1", False),
        ("rescale.appended:4", False),
        ("rescale.copied:1", False),
        ("rescale.compared:1", False),
        ("rescale.before_switch:1", False),
        ("rescale.after_switch:1", True),
    ],
)
def test_a_rescale_that_is_killed_leaves_the_app_as_it_was_or_as_it_is_to_be(
    failpoint: str, switched: bool, tmp_path: Path
) -> None:
    """SIGKILL on the way: the number that is not in force is refused, verify agrees, and it is run again."""
    data, app = tmp_path / "data", deployed(tmp_path / "app", V1, more=OLD)
    with serve(app, data) as server:
        assert counts(server, "Counter", "POST") == [1] * len(NAMES)
        assert server.stop() == 0
    where = (str(app), "--data", str(data))
    killed = run("rescale", *where, "--partitions", "7", environ={"PERDURE_FAILPOINT": failpoint})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    as_it_was = run("verify", *where)
    assert (as_it_was.returncode == 0) is not switched, as_it_was.stderr
    if not switched:
        again = run("rescale", *where, "--partitions", "7", "--json")
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["objects"] == len(NAMES)
    text = (app / "perdure.toml").read_text().replace("partitions = 4", "partitions = 7")
    (app / "perdure.toml").write_text(text)
    assert run("verify", *where).returncode == 0
    assert "has 7 partitions already" in run("rescale", *where, "--partitions", "7").stderr
    if failpoint in ("rescale.copied:1", "rescale.after_switch:1"):  # one of each is served
        with serve(app, data) as server:
            assert counts(server, "Counter", "POST") == [2] * len(NAMES)
            assert server.stop() == 0
        assert run("verify", *where).returncode == 0
        assert (data / "log").is_dir(), "the history is kept"


def test_a_running_app_and_an_unclean_stop_are_refused(tmp_path: Path) -> None:
    """The first by the lock; behind the second it is known what to do, and that leads out."""
    data, app = tmp_path / "data", deployed(tmp_path / "app", V1, more=OLD)
    where = (str(app), "--data", str(data), "--partitions", "2")
    assert "there is no data directory" in run("rescale", *where).stderr
    with serve(app, data) as server:
        counts(server, "Counter", "POST")
        refused = run("rescale", *where)
        assert refused.returncode == 1
        assert "is in use by process" in refused.stderr
        assert server.stop() == 0
    done = run("rescale", *where)
    assert done.returncode == 0, done.stderr
    assert "Set partitions = 2 and start the app." in done.stdout
    with pytest.raises(DidNotStart) as old, serve(app, data):
        pass
    assert old.value.returncode == 2
    assert "set partitions = 2, or change the number with perdure rescale --partitions 4" in old.value.stderr
