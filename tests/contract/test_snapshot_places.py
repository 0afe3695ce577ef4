"""What snapshots need of a place: one suite for a directory, an S3 server and the twin in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.s3 import S3, s3_server

from perdure.schemas.errors import ConfigError, StorageFailed
from perdure.streams.snapshots.places import DirectoryPlace, MemoryPlace, SnapshotPlace, place_at


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["directory", "s3", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> SnapshotPlace:
    if request.param == "s3":
        server: S3 = request.getfixturevalue("s3")
        return place_at(server.bucket(), server.endpoint)
    return DirectoryPlace(tmp_path / "there" / "not yet") if request.param == "directory" else MemoryPlace()


def test_an_object_is_there_once_it_was_put_and_nothing_replaces_it(place: SnapshotPlace) -> None:
    """The second put of a name says so and changes nothing; names come with their sizes, by folder."""
    assert place.names("a") == {}
    assert place.get("a/1") is None
    assert place.put("a/1", b"one")
    assert place.put("a/2", b"")
    assert place.put("ab/c/d", b"x" * 3_000_000)
    assert not place.put("a/1", b"two")
    assert place.get("a/1") == b"one"
    assert place.get("ab/c/d") == b"x" * 3_000_000
    assert place.names("a") == {"a/1": 3, "a/2": 0}
    assert place.names("ab") == {"ab/c/d": 3_000_000}
    place.delete("a/1")
    place.delete("a/1")
    assert place.get("a/1") is None
    assert place.names("a") == {"a/2": 0}


def test_of_several_that_put_one_name_one_succeeds(place: SnapshotPlace) -> None:
    """Threads that race for a name: one of them wrote it, and its content is whole."""
    contents = [bytes([n]) * 100_000 for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda content: place.put("same/name", content), contents))
    assert won.count(True) == 1
    assert place.get("same/name") in contents


def test_what_a_killed_writer_left_is_not_there(tmp_path: Path) -> None:
    """A file that was being written is not listed, and goes when it is old and something else is written."""
    place = DirectoryPlace(tmp_path)
    (tmp_path / "a").mkdir()
    left = tmp_path / "a" / "1.4711.part"
    left.write_bytes(b"hal")
    os.utime(left, (0, 0))
    assert place.names("a") == {}
    assert place.put("a/1", b"half")
    assert not left.exists()
    assert os.listdir(tmp_path / "a") == ["1"]


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path, s3: S3) -> None:
    """A file where the folder should be, a bucket that does not exist, a server that is not there."""
    (tmp_path / "file").write_text("")
    for place, named in (
        (DirectoryPlace(tmp_path / "file"), str(tmp_path / "file")),
        (place_at("s3://no-such-bucket/x", s3.endpoint), "s3://no-such-bucket/x"),
    ):
        with pytest.raises(StorageFailed, match=named):
            place.put("a/1", b"")


@pytest.mark.parametrize("url", ["gs://bucket/folder", "az://container/folder"])
def test_other_clouds_are_opened_or_say_what_they_lack(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's and Azure's client accept the address; what they miss in the environment is an error that says
    so.
    """
    for name in list(os.environ):
        if name.startswith(("AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    if url.startswith("az"):
        with pytest.raises(ConfigError, match=r"az://container/folder.*Account must be specified"):
            place_at(url)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    assert place_at(url)
