"""Questions in SQL: what the tables hold, as of now and of a time, and that nothing can be changed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.journals import JournalWriter, embedded, entry
from typer.testing import CliRunner

from perdure.api.cli import app as cli
from perdure.schemas.admin import Change, encode_record
from perdure.schemas.config import Config
from perdure.schemas.effects import AlarmChange, SocketChange
from perdure.schemas.errors import MalformedCommand, OperatorError
from perdure.schemas.journal import Migration
from perdure.schemas.migrations import Step
from perdure.streams.sql import pieces
from perdure.streams.sql.query import Answer, ask
from perdure.streams.sql.worker import answered
from perdure.streams.state.fold import fold
from perdure.streams.state.tables import Tables
from perdure.streams.store.rocks import RocksStore


class App:
    """An app's data directory with one partition, whose journal is written here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data"
        self.folder.mkdir()
        self.config = Config(name="app", data_dir=self.folder, partitions=1)
        self.writer = JournalWriter()
        self.writer.claim()

    def write(self) -> App:
        embedded(self.folder / "log", [self.writer.values])
        about = {"app": "app", "uuid": "uuid", "format": 2, "partitions": 1, "has_log": True}
        (self.folder / "app.json").write_text(json.dumps(about))
        return self

    def put(self, key: str, count: int, time_ms: int, **more: Any) -> int:
        return self.writer.entry(entry(key, {"count": count}, time_ms=time_ms, **more))

    def ask(self, question: str, **more: Any) -> list[list[Any]]:
        return self.answer(question, **more).rows

    def answer(self, question: str, **more: Any) -> Answer:
        return asyncio.run(ask(self.config, question, **more))


@pytest.fixture
def app(tmp_path: Path) -> App:
    """Three counters, one of them gone; an alarm, a WebSocket and a parked command."""
    app = App(tmp_path)
    app.put("Counter/a", 1, 1_000, principal="ann", id="x1", command=3)
    app.put("Counter/b", 7, 2_000)
    app.put("Counter/a", 2, 3_000)
    app.put("Counter/c", 9, 4_000)
    app.writer.entry(entry("Counter/c", {}, time_ms=5_000, clear=True))
    app.writer.entry(entry("Account/x", {"password": "hidden", "name": "x"}, time_ms=6_000))
    alarms, sockets = (AlarmChange("ring", 90_000),), (SocketChange("s1", "gate", ("tag",)),)
    app.writer.entry(entry("Room/r", {}, time_ms=7_000, alarms=alarms, sockets=sockets))
    parked = Change("parked", record=encode_record((b"Room/r", b"{}", ())))
    app.writer.entry(entry("Room/r", {}, time_ms=8_000, command=17, outcome="parked", changes=(parked,)))
    return app.write()


def test_each_table_has_what_the_journal_says(app: App) -> None:
    """State is what is left, entries are all; alarms, sockets and parked commands are the present ones."""
    assert app.ask(
        "select object, key, value, bytes from state where namespace = 'Counter' order by all"
    ) == [
        ["Counter/a", "count", "2", 1],
        ["Counter/b", "count", "7", 1],
    ]
    assert app.ask("select name, (puts->>'count')::int, outcome from entries where namespace='Counter'") == [
        ["a", 1, "ok"],
        ["b", 7, "ok"],
        ["a", 2, "ok"],
        ["c", 9, "ok"],
        ["c", None, "ok"],
    ]
    assert app.ask("select time, caller, id, command, pos, method from entries where caller <> ''") == [
        ["1970-01-01T00:00:01.000Z", "ann", "x1", 3, 2, "increment"]
    ]
    assert app.ask("select object, alarm, due from alarms") == [
        ["Room/r", "ring", "1970-01-01T00:01:30.000Z"]
    ]
    assert app.ask("select object, id, gateway, tags from sockets") == [["Room/r", "s1", "gate", ["tag"]]]
    assert app.ask("select object, place from parked") == [["Room/r", "0:17"]]
    assert app.ask("select partition, journal_end, applied from partitions") == [[0, 10, 10]]
    assert app.answer("select count(*) as n from commands") == Answer(["n"], [[0]], False)


def test_a_question_may_be_as_of_a_time(app: App) -> None:
    """Later turns have not happened."""
    question = "select name, value from state where namespace = 'Counter' order by all"
    assert app.ask(question, at_ms=2_500) == [["a", "1"], ["b", "7"]]
    assert app.ask(question, at_ms=4_000) == [["a", "2"], ["b", "7"], ["c", "9"]]
    assert app.ask("select count(*) from entries", at_ms=4_000) == [[4]]
    assert app.ask("select count(*) from alarms", at_ms=4_000) == [[0]]


def test_the_state_of_a_node_is_only_read(app: App) -> None:
    """What its store has not yet is folded in memory; the store stays as it was, and so with a namespace that
    was deleted.
    """
    path = app.folder / "state"

    async def folded(end: int) -> None:
        from perdure.streams.log.embedded.read_only import EmbeddedReading

        log, store = EmbeddedReading(app.folder / "log"), RocksStore(path)
        tables = Tables(store, 0, exclusive=True)
        await fold(log, tables, end)
        tables.write_all()
        store.flush()
        store.close()
        await log.close()

    asyncio.run(folded(4))
    question = "select name, value from state where namespace = 'Counter' order by all"
    assert app.ask(question) == [["a", "2"], ["b", "7"]]
    app.writer.add(Migration(0, 0, Step("gone", deleted=("Counter",))))
    embedded_again(app)
    assert app.ask(question) == []
    assert app.ask("select count(*) from state") == [[2]]
    store = RocksStore(path)
    assert Tables(store, 0).reader.offset == 4
    store.close()


def embedded_again(app: App) -> None:
    import shutil

    shutil.rmtree(app.folder / "log")
    app.write()


def test_what_is_secret_is_masked(app: App) -> None:
    """In state and in entries."""
    values = app.ask("select value from state where key = 'password'")
    puts = app.ask("select puts from entries where namespace = 'Account'")
    assert "hidden" not in str(values + puts)
    assert puts[0][0].startswith('{"password":')


def test_files_hold_what_was_decoded_and_are_made_again_for_another_log(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With files and without, the answer is the same; a journal that was replaced is not confused with it."""
    monkeypatch.setattr(pieces, "PIECE_RECORDS", 4)
    question = "select pos, object, puts, deletes, cleared, error from entries order by pos"
    before = app.ask(question)
    files = sorted((app.folder / "sql" / "log" / "entries").iterdir())
    assert [each.stem for each in files] == ["0-0-4", "0-4-8"]
    times = [each.stat().st_mtime_ns for each in files]
    assert app.ask(question) == before
    assert [each.stat().st_mtime_ns for each in files] == times
    other = JournalWriter()
    other.claim()
    app.writer = other
    for number in range(8):
        app.put("Counter/z", number, 1_000 + number)
    embedded_again(app)
    assert app.ask("select distinct object from entries") == [["Counter/z"]]


@pytest.mark.parametrize(
    "question",
    [
        "drop table entries",
        "create table x as select 1",
        "select 1; select 2",
        "copy (select 1) to '{folder}/x.csv'",
        "insert into entries select * from entries",
        "attach '{folder}/x.db'",
        "set enable_external_access = true",
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('{folder}/app.json')",
        "select * from '{folder}/log/CURRENT'",
        "install httpfs",
        "pragma database_list",
        "call pragma_version()",
        "select nothing from entries",
        "selec 1",
    ],
)
def test_a_question_only_reads_what_it_is_given(app: App, question: str) -> None:
    """No statement but one SELECT, no file, no network, no setting."""
    with pytest.raises(MalformedCommand):
        app.ask(question.format(folder=app.folder))
    assert not list(app.folder.glob("x*"))


def test_rows_are_bounded_and_of_all_types(app: App) -> None:
    """`cut` says that there were more; values without a form in JSON are shown as texts."""
    assert app.answer("select * from range(10)", limit=3) == Answer(["range"], [[0], [1], [2]], True)
    row = (
        "select 1.5::decimal(3,1), date '2026-01-02', interval 1 day, {'a': [1]}, 'b'::blob, uuid '"
        + "0" * 32
        + "'"
    )
    assert app.ask(row) == [
        [
            "1.5",
            "2026-01-02",
            "1 day, 0:00:00",
            {"a": [1]},
            {"$bytes": "Yg=="},
            "00000000-0000-0000-0000-000000000000",
        ]
    ]


def test_a_node_asks_a_process_of_its_own(app: App) -> None:
    """It answers as `ask` does, errors too."""

    async def run() -> None:
        answer = await answered(app.config, "select name from state where key = 'count' order by 1", None, 1)
        assert (answer.columns, answer.rows, answer.cut) == (["name"], [["a"]], True)
        with pytest.raises(MalformedCommand, match="one SELECT"):
            await answered(app.config, "drop table x", None, 1)
        missing = app.config.model_copy(update={"data_dir": app.folder / "nowhere"})
        with pytest.raises(OperatorError, match="not a data directory"):
            await answered(missing, "select * from state", None, 1)

    asyncio.run(run())


def test_the_command_prints_a_table_or_json(app: App, tmp_path: Path) -> None:
    """Of the app that its path names."""
    (tmp_path / "perdure.toml").write_text('name = "app"\npartitions = 1\n')
    arguments = [str(tmp_path), "--data", str(app.folder)]
    question = "select name, value from state where key = 'count' order by 1"
    printed = CliRunner().invoke(cli, ["sql", question, *arguments])
    assert printed.output == "name  value\na     2\nb     7\n"
    printed = CliRunner().invoke(
        cli, ["sql", question, *arguments, "--json", "--at", "1970-01-01T00:00:02.5"]
    )
    assert json.loads(printed.stdout) == [{"name": "a", "value": "1"}, {"name": "b", "value": "7"}]
