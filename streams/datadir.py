"""The data directory: whose it is, who has it, and where things lie in it.

    LOCK       flock'ed while a process has it; says which one
    app.json   app, uuid, format, partitions, generation; written when the directory is made, when its
               format is raised, and by a rescale
    log/       the embedded log, and `torn/` beside it with what was cut off its end after crashes; log.N/
               after N rescales
    state/     the stores; may be deleted, the log rebuilds them; state.N/ after N rescales
    projections/   the rows of projections; may be deleted while no process folds, the journal rebuilds them
    sql/       records that questions in SQL have decoded; may be deleted
    *.tmp/     what verify, transfers and rebuilds need meanwhile; may be deleted while nothing runs
    poison     which command is running, for the next start if this process dies of it
               (streams/turns/supervision/crash_marker.py)

Laws
- One process has a directory at a time. The kernel holds the lock, so it goes with its process.
- `app.json` comes before anything it describes, and whole. A directory with contents but without it,
  or of another app, or of a newer format, is refused and left as it is.
- A node raises an older format before it writes anything else: from then on earlier versions refuse the
  directory. What only looks at data (`must_exist`) does not. [test_datadir.py]
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import msgspec

from perdure.schemas.errors import ConfigError, DataDirError
from perdure.streams.log.embedded.wal_check import fsync_path

FORMAT = 2  # 1: no `perdure-` before the names of headers on the log, which versions that write 1 do not read
RESCALED_FORMAT = 3  # 3: the log and the state of a later generation; written by a rescale only
LOCK, APP = "LOCK", "app.json"


class AppFile(msgspec.Struct):
    """The content of `app.json`. `has_log` is set once the log was started: from then on it must exist.

    `generation`: how often the app was rescaled; log and state of each generation have folders of their own.
    """

    app: str
    uuid: str
    format: int
    partitions: int
    has_log: bool = False
    generation: int = 0


class Holder(msgspec.Struct):
    """The content of `LOCK`: the process that has the directory, for the error of one that is refused.

    The file's mtime says since when. `command` is for people: under `perdure dev` it is not what was typed.
    """

    pid: int
    command: str


def app_in(path: Path) -> AppFile:
    """The app whose data directory `path` is. Raises `DataDirError` if it is not a data directory."""
    try:
        text = (path / APP).read_bytes()
    except OSError as error:
        raise DataDirError(f"{path} is not a data directory of perdure: {error}") from error
    return _app_of(path, text)


def is_data_dir(path: Path) -> bool:
    """True if `path` is a data directory of some app. Raises `OSError` if that cannot be seen."""
    return (path / APP).exists()


def no_data_dir(path: Path) -> DataDirError:
    """The error of a command that looks at data where there are none."""
    return DataDirError(
        f"there is no data directory of perdure at {path.absolute()} (it has no {APP}): name the right one "
        "with --data, or start the app once, if it has never run"
    )


def log_in(path: Path) -> Path:
    """Where the log lies in the data directory `path`. Raises `DataDirError` if it is not one."""
    return path / _folder("log", app_in(path).generation)


def state_in(path: Path) -> Path | None:
    """Where the state lies in the data directory `path`; None if there is none."""
    try:
        state = path / _folder("state", app_in(path).generation)
    except DataDirError:
        return None
    return state if state.is_dir() else None


def _folder(name: str, generation: int) -> str:
    return f"{name}.{generation}" if generation else name


class DataDir:
    """The data directory in `path`, made if it is not there, locked until `close`.

    `app` is the app's name, and `partitions` its number of partitions. `new_uuid` gives the app's uuid if the
    directory is new. `must_exist`: it is not made, nor its format
    raised; `disposable`: the log is elsewhere, so another partition count begins a state of its own; one
    without `app.json` is not there. Raises `DataDirError` (in use, foreign, too new, not accessible, not
    there) or `ConfigError` (it was made with another partition count).
    """

    def __init__(
        self,
        path: Path,
        *,
        app: str,
        partitions: int,
        new_uuid: Callable[[], str],
        must_exist: bool = False,
        disposable: bool = False,
    ) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        try:
            if must_exist and not is_data_dir(path):
                raise no_data_dir(path)
            path.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign()
            self._lock = self._take_lock()
            self._app = self._read() or self._write(AppFile(app, new_uuid(), FORMAT, partitions))
            if disposable and not must_exist and self._app.app == app and self._app.partitions != partitions:
                self.switch(partitions)  # the log decides; this directory has but a fold of it
            self._check(app, partitions)
            if self._app.format < FORMAT and not must_exist:
                self._app = self._write(msgspec.structs.replace(self._app, format=FORMAT))
            self._say_who(self._lock)  # only now: a process that is refused never had it
        except OSError as error:
            self.close()
            raise DataDirError(
                f"cannot use {path} as data directory: {error}; check its rights, or choose another"
            ) from error
        except BaseException:
            self.close()
            raise

    @property
    def log_path(self) -> Path:
        return self.path / _folder("log", self._app.generation)

    @property
    def state_path(self) -> Path:
        return self.path / _folder("state", self._app.generation)

    def of_next_generation(self) -> tuple[Path, Path]:
        """Where a rescale puts log and state."""
        following = self._app.generation + 1
        return self.path / _folder("log", following), self.path / _folder("state", following)

    def switch(self, partitions: int) -> None:
        """Make the next generation, with so many partitions, the app's: one atomic step."""
        following = self._app.generation + 1
        changes = {"format": RESCALED_FORMAT, "partitions": partitions, "generation": following}
        self._app = self._write(msgspec.structs.replace(self._app, **changes))

    @property
    def rebuild_path(self) -> Path:
        return self.path / "rebuild.tmp"

    @property
    def poison_path(self) -> Path:
        return self.path / "poison"

    @property
    def app_uuid(self) -> str:
        return self._app.uuid

    @property
    def has_log(self) -> bool:
        """True if there must be a log. Pass it to `EmbeddedLog(must_exist=...)`."""
        return self._app.has_log

    def log_is_there(self) -> None:
        """Call it when the log was started: from now on a missing log is a lost one, not a new one."""
        if not self._app.has_log:
            self._app = self._write(msgspec.structs.replace(self._app, has_log=True))

    def close(self) -> None:
        """Give the lock back."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def _refuse_foreign(self) -> None:
        """Raise, before the first file is written, unless the directory is new or ours."""
        present = {entry.name for entry in self.path.iterdir()}
        if APP in present or present <= {LOCK, APP + ".new"}:
            return
        if present & {"log", "state"} and LOCK in present:
            raise DataDirError(f"{self.path / APP} is missing, but there is data: restore it from a backup")
        raise DataDirError(
            f"{self.path} is not empty and not a data directory of perdure (no {APP}): choose another directory (--data)"
        )

    def _take_lock(self) -> IO[str]:
        lock = (self.path / LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with lock:
                lock.seek(0)
                raise DataDirError(self._in_use(lock.read(), os.fstat(lock.fileno()).st_mtime)) from None
        return lock

    def _say_who(self, lock: IO[str]) -> None:
        lock.truncate(0)
        lock.write(msgspec.json.encode(Holder(os.getpid(), " ".join(sys.argv))).decode())
        lock.flush()

    def _in_use(self, written: str, since_s: float) -> str:
        try:
            holder = msgspec.json.decode(written, type=Holder)
        except msgspec.MsgspecError:  # it has the lock, but has not said yet who it is
            return f"{self.path} is in use by another process: stop that one, or choose another directory (--data)"
        since = datetime.fromtimestamp(since_s, UTC).isoformat(timespec="seconds")
        how = f"Ctrl-C where it runs, or kill {holder.pid}"
        if " --dev" in holder.command:
            how = "Ctrl-C where `perdure dev` runs, which starts it again if it is killed"
        return (
            f"{self.path} is in use by process {holder.pid}, since {since}: "
            f"stop it ({how}), or choose another directory (--data)"
        )

    def _read(self) -> AppFile | None:
        try:
            text = (self.path / APP).read_bytes()
        except FileNotFoundError:
            return None
        return _app_of(self.path, text)

    def _write(self, app: AppFile) -> AppFile:
        """Write `app.json` whole or not at all."""
        aside = self.path / (APP + ".new")
        aside.write_bytes(msgspec.json.format(msgspec.json.encode(app)) + b"\n")
        fsync_path(aside)
        os.rename(aside, self.path / APP)
        fsync_path(self.path)
        fsync_path(self.path.parent)
        return app

    def _check(self, app: str, partitions: int) -> None:
        if self._app.app != app:
            raise DataDirError(
                f"{self.path} belongs to the app {self._app.app!r}, not to {app!r}: choose another directory (--data)"
            )
        if self._app.partitions != partitions:
            raise ConfigError(
                f"{self.path} was created with {self._app.partitions} partitions, {partitions} are configured; "
                f"set partitions = {self._app.partitions}, or change the number with perdure rescale --partitions {partitions}"
            )


async def remove_folder(path: Path) -> None:
    """Remove a folder that nothing depends on, in a thread: it may be large. What cannot be removed stays."""
    await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)


def _app_of(path: Path, text: bytes) -> AppFile:
    """What the `app.json` of a data directory says."""
    try:
        content = msgspec.json.decode(text)
        # The format first: a newer one may have other fields.
        if (
            isinstance(content, dict)
            and isinstance(content.get("format"), int)
            and content["format"] > RESCALED_FORMAT
        ):
            raise DataDirError(
                f"{path} has format {content['format']}, this version of perdure knows up to {RESCALED_FORMAT}: use a newer perdure"
            )
        return msgspec.convert(content, AppFile)
    except msgspec.MsgspecError as error:
        raise DataDirError(f"{path / APP} is unreadable ({error}): restore it from a backup") from error
