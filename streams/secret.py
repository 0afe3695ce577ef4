"""The app's secret: where it is kept, and how it is made and replaced.

    PERDURE_SEAL_SECRET    the secret itself, or `new,old`: the same on all nodes of an app on Kafka
    seal_secret_file       a file that holds it, one secret a line, the current one first
    DATA/secret            if nothing else is said: made with 32 random bytes at the
    first start, for its owner's eyes only

Laws
- A secret is written whole, before anything is sealed with it; it is never printed, logged, or put on a log.
- `rotate` keeps the secrets before the new one, since commands that are sealed with
  them may wait; `KEPT` of them.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
from pathlib import Path

from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError, DataDirError
from perdure.schemas.seal import SECRET_BYTES, Seal, secrets_in
from perdure.streams.log.embedded.wal_check import fsync_path

FILE = "secret"
KEPT = 2  # previous secrets in the file
_HEAD = "# perdure seals its own commands with the first line; those below are still accepted. Keep it to yourself.\n"
_logger = logging.getLogger("perdure")


def new_secret() -> str:
    """A random secret, as text."""
    return secrets.token_urlsafe(SECRET_BYTES)


def seal_of(config: Config, data: Path, app_uuid: str) -> Seal:
    """The seal of a configured app with its data directory in `data`. Raises
    `ConfigError` or `DataDirError`.
    """
    known = configured(config)
    if known is None:
        known = _kept_in(data / FILE) or _write(data / FILE, (new_secret(),))
    return Seal(*known, app=config.name, founding=app_uuid, lost=config.seal_lost)


def configured(config: Config) -> tuple[str, ...] | None:
    """The secrets that the configuration gives, the current one first; None: the data directory has them.

    Raises `ConfigError`.
    """
    if config.seal_secret is not None:
        return secrets_in(config.seal_secret.get_secret_value())
    if config.seal_secret_file is None:
        return None
    try:
        return secrets_in(config.seal_secret_file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"seal_secret_file: {config.seal_secret_file} cannot be read: {error}") from None
    except ValueError as error:  # a `UnicodeDecodeError` would quote the bytes
        why = "it is not UTF-8" if isinstance(error, UnicodeError) else error
        raise ConfigError(f"seal_secret_file: {config.seal_secret_file}: {why}") from None


def kept_in(data: Path) -> tuple[str, ...] | None:
    """The secrets in a data directory; None: there are none yet. Raises `DataDirError`."""
    return _kept_in(data / FILE)


def rotate(data: Path) -> tuple[str, ...]:
    """Put a new secret before those in a data directory, which no node uses
    meanwhile; all that are kept then.
    """
    return _write(data / FILE, (new_secret(), *(_kept_in(data / FILE) or ())[:KEPT]))


def _kept_in(file: Path) -> tuple[str, ...] | None:
    try:
        text = file.read_text(encoding="utf-8")
        mode = file.stat().st_mode
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError) as error:
        raise DataDirError(
            f"{file} cannot be read ({type(error).__name__}): restore it from a backup"
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        _logger.warning("%s can be read by others: chmod 600 it, then `perdure secret rotate`", file)
    try:
        return secrets_in(text)
    except ValueError as error:
        raise DataDirError(f"{file}: {error}: restore it from a backup, or remove it for a new one") from None


def _write(file: Path, known: tuple[str, ...]) -> tuple[str, ...]:
    aside = file.with_name(FILE + ".new")
    try:
        aside.unlink(missing_ok=True)
        with open(
            os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as opened:
            opened.write(_HEAD + "".join(f"{each}\n" for each in known))
        fsync_path(aside)
        os.rename(aside, file)
        fsync_path(file.parent)
    except OSError as error:
        raise DataDirError(f"{file} cannot be written: {error.strerror}") from error
    return known
