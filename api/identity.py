"""The identity of a node's process, as its claims name it: node, host, process id, version of the app's code.

The version is a hash of the source files that were imported. All entries of an epoch were made by one
process, so by one version of the code: that of the epoch's claim.
"""

from __future__ import annotations

import os
import socket
import sys
from hashlib import blake2b
from pathlib import Path

from perdure.objects.registry import Registry
from perdure.streams.turns.ports import Identity

_HASH_BYTES = 8


def identity_of(node: str, app: str, app_uuid: str, registry: Registry) -> Identity:
    """The identity of this process, under the names of its node and its app."""
    return Identity(node, app, app_uuid, socket.gethostname(), os.getpid(), code_version(registry))


def code_version(registry: Registry) -> str:
    """The hash of the app's modules: those of its classes, and what lies in the same folders and is imported.

    Empty where there are no source files.
    """
    own = [sys.modules.get(kind.cls.__module__) for kind in registry.types.values()]
    folders = {Path(file).resolve().parent for each in own if (file := getattr(each, "__file__", None))}
    hashed, any_ = blake2b(digest_size=_HASH_BYTES), False
    for path in sorted({path for folder in folders for path in _imported_from(folder)}):
        try:
            source = path.read_bytes()
        except OSError:
            continue
        any_ = True
        hashed.update(f"{path.name}:{len(source)}:".encode() + source)
    return hashed.hexdigest() if any_ else ""


def _imported_from(folder: Path) -> list[Path]:
    paths = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and file.endswith(".py"):
            path = Path(file).resolve()
            if path.is_relative_to(folder) and "site-packages" not in path.relative_to(folder).parts:
                paths.append(path)
    return paths
