"""What the tables need of a store: one suite for RocksDB and for its twin in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from rocksdict import Options, Rdict

from perdure.schemas.errors import StorageFailed
from perdure.streams.store.base import Store
from perdure.streams.store.memory import MemoryStore
from perdure.streams.store.rocks import RocksStore


@pytest.fixture(params=["rocks", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = RocksStore(tmp_path / "state") if request.param == "rocks" else MemoryStore()
    yield made
    made.close()


def _names(rows: Iterator[tuple[bytes, bytes]]) -> list[bytes]:
    return [key for key, _ in rows]


def test_a_write_is_seen_by_get(store: Store) -> None:
    """What was written is read back; what was not is None; None deletes."""
    store.write((), [(b"a", b"1"), (b"b", b"2"), (b"empty", b"")])
    store.write((), [(b"b", None), (b"never", None)])
    assert (store.get(b"a"), store.get(b"b"), store.get(b"empty"), store.get(b"z")) == (b"1", None, b"", None)


def test_a_store_that_was_written_without_filters_is_read(tmp_path: Path) -> None:
    """As earlier versions wrote it; what comes new lies beside it."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    before = Rdict(str(tmp_path / "state"), options)
    before[b"old"], before[b"both"] = b"1", b"1"
    before.flush(True)
    before.close()
    store = RocksStore(tmp_path / "state")
    store.write((), [(b"new", b"2"), (b"both", b"2")])
    store.flush()
    assert [store.get(name) for name in (b"old", b"both", b"new", b"none")] == [b"1", b"2", b"2", None]
    assert list(store.scan(b"", b"z")) == [(b"both", b"2"), (b"new", b"2"), (b"old", b"1")]
    store.close()


def test_a_scan_keeps_to_its_bounds_in_both_directions(store: Store) -> None:
    """The start is inclusive, the end exclusive, whether or not rows lie on them."""
    store.write((), [(name, name) for name in (b"a", b"b", b"c", b"d", b"e")])
    assert _names(store.scan(b"b", b"d")) == [b"b", b"c"]
    assert _names(store.scan(b"b", b"d", reverse=True)) == [b"c", b"b"]
    assert _names(store.scan(b"aa", b"cc")) == [b"b", b"c"]
    assert _names(store.scan(b"aa", b"cc", reverse=True)) == [b"c", b"b"]
    assert _names(store.scan(b"x", b"z")) == _names(store.scan(b"x", b"z", reverse=True)) == []


def test_ranges_are_removed_before_rows_are_put(store: Store) -> None:
    """One write removes its ranges first, so that what it puts into them stays."""
    store.write((), [(b"p1", b"old"), (b"p2", b"old"), (b"q", b"old")])
    store.write([(b"p", b"q")], [(b"p2", b"new")])
    assert list(store.scan(b"", b"z")) == [(b"p2", b"new"), (b"q", b"old")]


def test_random_writes_agree_with_a_plain_dict(store: Store) -> None:
    """After random puts, deletes, removed ranges and flushes, get and scan agree with a dict."""
    random = Random(7)
    model: dict[bytes, bytes] = {}
    for _ in range(300):
        removed = []
        if random.random() < 0.1:
            start, end = sorted(b"%03d" % random.randrange(200) for _ in range(2))
            removed.append((start, end))
            model = {key: value for key, value in model.items() if not start <= key < end}
        rows: list[tuple[bytes, bytes | None]] = []
        for _ in range(random.randrange(8)):
            key = b"%03d" % random.randrange(200)
            value = None if random.random() < 0.3 else b"%d" % random.getrandbits(30)
            rows.append((key, value))
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        store.write(removed, rows)
        if random.random() < 0.05:
            store.flush()
    assert list(store.scan(b"", b"z")) == sorted(model.items())
    assert list(store.scan(b"", b"z", reverse=True)) == sorted(model.items(), reverse=True)
    assert all(store.get(key) == value for key, value in model.items())


def test_what_was_flushed_is_there_when_opened_again(tmp_path: Path) -> None:
    """A store in a directory keeps what it held when it was closed."""
    first = RocksStore(tmp_path / "state")
    first.write((), [(b"a", b"1")])
    first.flush()
    first.close()
    again = RocksStore(tmp_path / "state")
    assert again.get(b"a") == b"1"
    again.close()


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_a_crash_of_the_twin_keeps_a_prefix_of_whole_writes(keep: int) -> None:
    """The twin forgets everything after the last flush but the first writes since, each whole."""
    store = MemoryStore()
    store.write((), [(b"a", b"flushed")])
    store.flush()
    store.write((), [(b"a", b"1"), (b"b", b"1")])
    store.write([(b"a", b"c")], [(b"c", b"2")])
    store.crash(keep)
    expected = [
        [(b"a", b"flushed")],
        [(b"a", b"1"), (b"b", b"1")],
        [(b"c", b"2")],
    ]
    assert list(store.scan(b"", b"z")) == expected[keep]


def test_an_exported_file_is_taken_in_by_another_store(tmp_path: Path) -> None:
    """The rows of the ranges, no others; the files are moved; a range without rows makes no file."""
    source, target = RocksStore(tmp_path / "source"), RocksStore(tmp_path / "target")
    source.write((), [(name, name) for name in (b"a1", b"a2", b"a3", b"b1", b"c1")])
    source.write((), [(b"a2", None)])
    target.write((), [(b"a9", b"kept"), (b"b9", b"kept")])
    files = [tmp_path / "a", tmp_path / "b"]
    assert [source.export(b"a", b"a9", files[0]), source.export(b"b", b"b2", files[1])] == [True, True]
    assert not source.export(b"d", b"e", tmp_path / "none")
    source.close()
    target.take_in(files)
    target.write((), [(b"a3", b"changed")])
    expected = [(b"a1", b"a1"), (b"a3", b"changed"), (b"a9", b"kept"), (b"b1", b"b1"), (b"b9", b"kept")]
    assert list(target.scan(b"", b"z")) == expected
    assert not any(file.exists() for file in (*files, tmp_path / "none"))
    target.close()


def test_of_files_that_are_taken_in_one_may_not_be_missing(tmp_path: Path) -> None:
    """Then none is: not the half of what belongs together."""
    store = RocksStore(tmp_path / "state")
    store.write((), [(b"a", b"a")])
    assert store.export(b"a", b"b", tmp_path / "a")
    other = RocksStore(tmp_path / "other")
    with pytest.raises(StorageFailed, match="cannot be read or written"):
        other.take_in([tmp_path / "a", tmp_path / "missing"])
    assert list(other.scan(b"", b"z")) == []
    other.close()
    store.close()
