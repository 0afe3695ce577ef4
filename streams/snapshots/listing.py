"""The snapshots at a place, as the command line and administration show them."""

from __future__ import annotations

from typing import Any

from perdure.schemas.seal import fingerprint
from perdure.streams.snapshots.accept import stored_in, verified_names
from perdure.streams.snapshots.manifest import StoredSnapshot
from perdure.streams.snapshots.places import SnapshotPlace


def list_all(place: SnapshotPlace, app: str, partitions: int) -> dict[str, Any]:
    """The snapshots of an app, by partition, the newest first; for one that cannot be read, the reason."""
    snapshots: list[dict[str, Any]] = []
    for partition in range(partitions):
        verified = verified_names(place, app, partition)
        for stored in stored_in(place, app, partition):
            if isinstance(stored, StoredSnapshot):
                snapshots.append({**shown(stored), "verified": stored.name in verified})
            else:
                snapshots.append({"partition": partition, "damaged": str(stored)})
    return {"snapshots": snapshots}


def shown(stored: StoredSnapshot) -> dict[str, Any]:
    """A snapshot, as JSON types."""
    manifest = stored.manifest
    return {
        "partition": manifest.partition,
        "name": stored.name,
        "offset": manifest.offset,
        "time_ms": manifest.time_ms,
        "rows": manifest.rows,
        "bytes": manifest.size_bytes,
        "files": len(manifest.files),
        "app": f"#{fingerprint(manifest.app_uuid)}",
    }
