"""The data directory: one process has it, it belongs to one app, and nothing foreign is touched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from tests.process import clean_environ

from perdure.schemas.errors import ConfigError, DataDirError
from perdure.streams.datadir import FORMAT, DataDir

HOLD = """
import sys
from pathlib import Path
from perdure.streams.datadir import DataDir
held = DataDir(Path(sys.argv[1]), app="shop", partitions=8, new_uuid=lambda: "u")
print("held", flush=True)
sys.stdin.read()
"""


def opened(path: Path, *, app: str = "shop", partitions: int = 8) -> DataDir:
    numbers = count(1)
    return DataDir(path, app=app, partitions=partitions, new_uuid=lambda: f"uuid-{next(numbers)}")


def listing(path: Path) -> list[tuple[str, bytes]]:
    return sorted((str(p.relative_to(path)), p.read_bytes()) for p in path.rglob("*") if p.is_file())


def test_a_new_directory_is_made_and_kept(tmp_path: Path) -> None:
    """The uuid is drawn once; opened again the same app finds it, and where log and state lie."""
    path = tmp_path / "a" / "data"
    first = opened(path)
    uuid = first.app_uuid
    assert uuid == "uuid-1"
    assert (first.log_path, first.state_path) == (path / "log", path / "state")
    first.close()
    again = DataDir(path, app="shop", partitions=8, new_uuid=lambda: "another")
    assert again.app_uuid == uuid
    again.close()


def test_a_second_process_is_told_who_has_it(tmp_path: Path) -> None:
    """It is refused with directory, pid and remedy; when the first one is killed the lock is free at once."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environ(),
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(DataDirError) as refused:
        opened(tmp_path)
    assert re.fullmatch(
        rf"{tmp_path} is in use by process {holder.pid}, since [\dT:+-]+: stop it \(Ctrl-C where it runs, "
        rf"or kill {holder.pid}\), or choose another directory \(--data\)",
        str(refused.value),
    )
    holder.kill()
    holder.communicate()
    opened(tmp_path).close()


def test_the_same_process_cannot_have_it_twice(tmp_path: Path) -> None:
    """Also within one process the second is refused, and the first keeps the lock."""
    first = opened(tmp_path)
    for _ in range(2):
        with pytest.raises(DataDirError, match="in use"):
            opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_another_app_is_refused(tmp_path: Path) -> None:
    """Both names are in the error, and the directory stays as it was, and free."""
    opened(tmp_path).close()
    before = (tmp_path / "app.json").read_bytes()
    with pytest.raises(DataDirError, match="belongs to the app 'shop', not to 'bank'"):
        opened(tmp_path, app="bank")
    assert (tmp_path / "app.json").read_bytes() == before
    opened(tmp_path).close()


def test_whoever_is_refused_is_not_named_as_the_holder(tmp_path: Path) -> None:
    """LOCK says who had it last, until somebody else has it."""
    opened(tmp_path).close()
    (tmp_path / "LOCK").write_text("the one before")
    for refused in (lambda: opened(tmp_path, app="bank"), lambda: opened(tmp_path, partitions=16)):
        with pytest.raises((DataDirError, ConfigError)):
            refused()
    assert (tmp_path / "LOCK").read_text() == "the one before"
    opened(tmp_path).close()
    assert str(os.getpid()) in (tmp_path / "LOCK").read_text()


def test_another_partition_count_is_refused(tmp_path: Path) -> None:
    """Both counts are named, and the command that changes the number."""
    opened(tmp_path).close()
    with pytest.raises(
        ConfigError, match=r"created with 8 partitions, 16 are configured.*perdure rescale --partitions 16"
    ):
        opened(tmp_path, partitions=16)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"app": "shop", "format": 4, "shards": []}', "use a newer perdure"),
        ("", "unreadable"),
        ('{"app": "shop"', "unreadable"),
        ('{"app": "shop", "format": 1}', "unreadable"),
        ("[]", "unreadable"),
    ],
)
def test_an_unknown_app_json_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """A newer format, or a damaged file: named, with the remedy, never written over."""
    opened(tmp_path).close()
    (tmp_path / "app.json").write_text(text)
    with pytest.raises(DataDirError, match=said):
        opened(tmp_path)
    assert (tmp_path / "app.json").read_text() == text


def test_a_node_raises_the_format_so_that_earlier_versions_refuse_the_directory(tmp_path: Path) -> None:
    """Not one that only looks; the rest of what it says stays."""
    opened(tmp_path).close()
    text = (tmp_path / "app.json").read_text()
    assert f'"format": {FORMAT}' in text
    (tmp_path / "app.json").write_text(text.replace(f'"format": {FORMAT}', '"format": 1'))
    before = json.loads((tmp_path / "app.json").read_text())
    DataDir(tmp_path, app="shop", partitions=8, new_uuid=lambda: "", must_exist=True).close()
    assert json.loads((tmp_path / "app.json").read_text()) == before
    opened(tmp_path).close()
    assert json.loads((tmp_path / "app.json").read_text()) == {**before, "format": FORMAT}


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    """Not empty and not perdure's: refused, and not one file is written into it."""
    (tmp_path / "thesis.tex").write_text("chapter 1")
    before = listing(tmp_path)
    with pytest.raises(DataDirError, match="is not empty and not a data directory of perdure"):
        opened(tmp_path)
    assert listing(tmp_path) == before


def test_a_lost_app_json_is_not_replaced(tmp_path: Path) -> None:
    """With a log beside it a missing app.json is damage, not a new directory."""
    data = opened(tmp_path)
    data.log_path.mkdir()
    data.close()
    (tmp_path / "app.json").unlink()
    with pytest.raises(DataDirError, match=r"app\.json is missing, but there is data"):
        opened(tmp_path)


def test_a_creation_that_died_is_begun_again(tmp_path: Path) -> None:
    """A half-written app.json beside the lock is nobody's directory yet."""
    (tmp_path / "LOCK").write_text("")
    (tmp_path / "app.json.new").write_text('{"app": "sh')
    data = opened(tmp_path)
    assert data.app_uuid == "uuid-1"
    data.close()


def test_it_remembers_that_there_was_a_log(tmp_path: Path) -> None:
    """After `log_is_there` a reopened directory says that there must be a log."""
    data = opened(tmp_path)
    assert not data.has_log
    data.log_is_there()
    data.close()
    again = opened(tmp_path)
    assert again.has_log
    assert again.app_uuid == "uuid-1"
    again.close()


def test_a_path_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    """A file where the directory should be: an operator's error with the path, no traceback of the OS."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirError, match=r"cannot use .*file as data directory"):
        opened(tmp_path / "file")
