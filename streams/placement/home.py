"""The name of a data directory: two processes have the same one only if they share the directory.

The directory is locked by its process, so a later process with the same name shows that the earlier has
ended.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def home_of(path: Path) -> str:
    """The name of the data directory `path`, made of its place on this machine since it was started."""
    boot = ""
    with suppress(OSError):  # not on Linux: the other parts must do
        boot = _BOOT_ID.read_text().strip()
    stat = os.stat(path)
    parts = socket.gethostname(), boot, str(path.resolve()), str(stat.st_dev), str(stat.st_ino)
    return blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
