"""`perdure log` and `verify --online` on a real data directory: shown, exported, resumed, signed, proved."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_admin import call, written
from tests.process import run, serve
from typer.testing import CliRunner

from perdure.api.cli import app as commands
from perdure.api.loading import load_config
from perdure.schemas.errors import ConfigError, LogCorrupt, StoreCorrupt
from perdure.streams.audit.columns import COLUMNS
from perdure.streams.audit.export import export_log
from perdure.streams.audit.query import Query
from perdure.streams.audit.reader import open_audit
from perdure.streams.audit.verifying import verify_online
from perdure.streams.rebuild.verify import rebuild
from perdure.streams.snapshots.offline import take_all, verify_all
from perdure.streams.store.rocks import RocksStore

COUNT = 30


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An app that has worked, verified while its server ran; its folder and its data directory."""
    folder = tmp_path_factory.mktemp("app")
    written(folder, "[snapshots]", f'to = "file://{folder}/snapshots"')
    data = folder / "data"
    with serve(folder, data) as server:
        for n in range(COUNT):
            call(server, "Counter/" + "abc"[n % 3], "add", n)
        call(server, "Counter/a", "keep")
        done = run("verify", str(folder), "--data", str(data), "--online", "--json")
        assert done.returncode == 0, done.stderr
        findings = json.loads(done.stdout)
        assert (findings["result"], findings["entries"], findings["commands"]) == ("OK", COUNT + 1, COUNT + 1)
    return folder, data


def cli(place: tuple[Path, Path], *arguments: str, code: int = 0) -> Any:
    """The JSON that a command prints, run in this process."""
    where = ["--app", str(place[0]), "--data", str(place[1])] if "key" not in arguments else []
    done = CliRunner().invoke(commands, ["log", *arguments, *where])
    if code:
        assert done.exception is not None
        return done.exception
    assert done.exit_code == 0, done.output
    return (
        [json.loads(line) for line in done.stdout.splitlines()]
        if "--json" in arguments
        else json.loads(done.stdout)
    )


def test_records_are_shown_by_filters(place: tuple[Path, Path]) -> None:
    """In the order of their times, or the last ones; commands and journal together."""
    records = cli(place, "show", "--type", "entry", "--json")
    assert [each["args"] for each in records][:COUNT] == [[n] for n in range(COUNT)]
    assert [each["args"] for each in cli(place, "tail", "--type", "entry", "-n", "2", "--json")] == [[29], []]
    both = cli(place, "show", "--topics", "commands,journal", "--object", "Counter/b", "--json")
    assert [each["topic"] for each in both].count("commands") == 10
    (record,) = cli(place, "show", "--where", "args == [7] and values['count'] > 1", "--json")
    assert record["puts"] == {"count": 1 + 4 + 7}
    assert isinstance(cli(place, "show", "--where", "import os", code=1), Exception)


def test_an_export_holds_each_record_once(place: tuple[Path, Path], tmp_path: Path) -> None:
    """In each format; the columns are those of the records, other types as previews."""
    lines = tmp_path / "out.jsonl"
    assert cli(place, "export", str(lines), "--type", "entry", "--json")[0]["records"] == COUNT + 1
    kept = [json.loads(line) for line in lines.read_text().splitlines()]
    assert sorted(each["args"][0] for each in kept if each["args"]) == list(range(COUNT))
    assert isinstance(cli(place, "export", str(lines), code=1), ConfigError)
    cli(place, "export", str(tmp_path / "out.csv"), "--type", "entry", "--json")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert tuple(rows[0]) == COLUMNS
    assert sorted(json.loads(row["args"])[0] for row in rows if row["args"] != "[]") == list(range(COUNT))
    parquet = pytest.importorskip("pyarrow.parquet")
    cli(place, "export", str(tmp_path / "out.parquet"), "--type", "entry", "--json")
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.num_rows == COUNT + 1
    assert (
        parquet.ParquetFile(tmp_path / "out.parquet" / "part-000000.parquet")
        .metadata.row_group(0)
        .column(0)
        .compression
        == "ZSTD"
    )
    assert [row["puts"] for row in table.to_pylist()] == [row["puts"] or None for row in rows]


async def _cut(place: tuple[Path, Path], out: Path, format_: str, after: int) -> None:
    """An export that ends with an error after so many chunks of progress."""
    count = 0

    def progress(partition: int, done: int, total: int) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise OSError("the disk is full")

    async with open_audit(load_config(place[0], flags={"data_dir": place[1]})) as log:
        await export_log(log, Query(), out, format_, resume=True, progress=progress)


@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet"])
def test_an_export_that_was_cut_short_goes_on(
    place: tuple[Path, Path], tmp_path: Path, format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was cut: what is there at the end is what one that was not cut writes."""
    import asyncio

    from perdure.streams.audit import export

    monkeypatch.setattr(export, "CHECKPOINT_ROWS", 3)
    whole, pieces = tmp_path / f"whole.{format_}", tmp_path / f"pieces.{format_}"
    asyncio.run(_cut(place, whole, format_, 1_000))
    for after in (0, 1, 1):
        with pytest.raises(Exception, match="disk is full"):
            asyncio.run(_cut(place, pieces, format_, after))
        assert pieces.with_name(pieces.name + ".progress").exists()
    asyncio.run(_cut(place, pieces, format_, 1_000))
    if format_ == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        assert parquet.read_table(pieces).to_pylist() == parquet.read_table(whole).to_pylist()
    else:
        assert pieces.read_bytes() == whole.read_bytes()
    assert not pieces.with_name(pieces.name + ".progress").exists()


def test_a_checkpoint_is_signed_and_proofs_fit_it(place: tuple[Path, Path], tmp_path: Path) -> None:
    """The log is what the checkpoint says, a record is in it, and another one is not."""
    key, kept, proof = tmp_path / "key", tmp_path / "checkpoint.json", tmp_path / "proof.json"
    public = cli(place, "key", str(key))["public_key"]
    checkpoint = cli(place, "root", "--key", str(key))
    kept.write_text(json.dumps(checkpoint))
    assert (checkpoint["key"], len(checkpoint["journals"])) == (public, 3)
    assert cli(place, "check", str(kept), "--public-key", public)["result"] == "OK"
    busy = max(checkpoint["journals"], key=lambda each: each["size"])
    proved = cli(place, "prove", f"{busy['partition']}:3", "--size", str(busy["size"]))
    proof.write_text(json.dumps(proved))
    assert cli(place, "check", str(kept), "--proof", str(proof))["result"] == "OK"
    proof.write_text(json.dumps({**proved, "index": 2}))
    assert isinstance(cli(place, "check", str(kept), "--proof", str(proof), code=1), LogCorrupt)
    assert isinstance(cli(place, "prove", f"{busy['partition']}:99999", code=1), Exception)


def test_a_state_that_differs_is_found_beside_its_log(place: tuple[Path, Path]) -> None:
    """The first difference is named; from then on, mended, all is well again."""
    import asyncio

    config = load_config(place[0], flags={"data_dir": place[1]})
    state = place[1] / "state"
    asyncio.run(rebuild(config))  # so that all of it is in files
    assert asyncio.run(verify_online(config))["rows"] > 9
    store = RocksStore(state)
    row, value = next(store.scan(b"v", b"w"))
    store.write((), [(row, b"\x2a")])
    store.flush()
    store.close()
    with pytest.raises(StoreCorrupt, match="a replay of"):
        asyncio.run(verify_online(config))
    store = RocksStore(state)
    store.write((), [(row, value)])
    store.flush()
    store.close()
    assert asyncio.run(verify_online(config))["differences"] == 0


def test_a_check_may_begin_with_a_verified_snapshot(place: tuple[Path, Path]) -> None:
    """Then the journal is read from there on only, and the rows are those of the state all the same."""
    import asyncio

    config = load_config(place[0], flags={"data_dir": place[1]})
    asyncio.run(rebuild(config))
    asyncio.run(take_all(config))
    assert verify_all(config, replay=True)
    whole = asyncio.run(verify_online(config))
    rest = asyncio.run(verify_online(config, from_snapshot=True))
    assert (rest["rows"], rest["chain"]) == (whole["rows"], whole["chain"])
    assert rest["entries"] < whole["entries"]
