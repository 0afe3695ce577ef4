"""Row files: the same rows give the same files, and a change touches the files around it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.schemas.errors import SnapshotDamaged
from perdure.streams.snapshots import row_files
from perdure.streams.snapshots.row_files import RowFile, StoredRow, packed, unpacked


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of some rows, so that a test has many."""
    monkeypatch.setattr(row_files, "LEAST_BYTES", 200)
    monkeypatch.setattr(row_files, "MOST_BYTES", 2_000)
    monkeypatch.setattr(row_files, "CUT_BITS", 0x7)


def _rows(files: list[RowFile]) -> list[StoredRow]:
    return [row for each in files for row in unpacked(each.data, "file", each.sha256, each.rows)]


def _table(count: int, seed: int) -> dict[bytes, bytes]:
    random = Random(seed)
    return {b"v\0\0%09d" % random.randrange(10**9): random.randbytes(8) for _ in range(count)}


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.binary(min_size=1, max_size=40), st.binary(max_size=300), max_size=200))
def test_rows_come_back_in_their_order(table: dict[bytes, bytes]) -> None:
    """Whatever the rows are, the files hold each of them once, in order."""
    rows = sorted(table.items())
    files = list(packed(rows))
    assert _rows(files) == rows
    assert sum(each.rows for each in files) == len(rows)
    assert all(each.rows for each in files)


def test_a_row_more_touches_the_files_around_it_only() -> None:
    """Of a hundred files all but one or two are the same after one insertion, change or removal, wherever it
    is.
    """
    for seed in range(20):
        table = _table(2_000, seed)
        before = [each.sha256 for each in packed(sorted(table.items()))]
        assert len(before) > 50
        key = Random(seed).choice(sorted(table))
        for changed in (table | {key + b"x": b"new"}, table | {key: b"other"}, {**table}):
            if changed == table:
                del changed[key]
            after = {each.sha256 for each in packed(sorted(changed.items()))}
            assert len(after - set(before)) <= 3


def test_a_large_row_has_a_file_of_its_own() -> None:
    """A value over the bound does not make its neighbours' file any larger."""
    rows = [(b"a", b"1"), (b"b", bytes(10_000)), (b"c", b"3")]
    assert [each.rows for each in packed(rows)] == [1, 1, 1]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_file_is_damaged(data: st.DataObject) -> None:
    """Any flipped bit, any missing end, any other number of rows is an error that names the file."""
    (file,) = packed([(b"k%d" % n, b"v" * n) for n in range(9)])
    at = data.draw(st.integers(0, len(file.data) - 1))
    flipped = bytearray(file.data)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    for given_, rows in ((bytes(flipped), 9), (file.data[:at], 9), (file.data, 8), (file.data, 10)):
        with pytest.raises(SnapshotDamaged, match="the-file"):
            list(unpacked(given_, "the-file", file.sha256, rows))
