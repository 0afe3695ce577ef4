"""The table `[snapshots]` of a configuration: where snapshots go, how often, and how many are kept.

Law: credentials of an object store are never part of it; its client reads them from the environment.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from perdure.schemas.durations import parse_duration_s
from perdure.schemas.secrecy import without_credentials
from perdure.schemas.section import Section

PLACES = ("file", "s3", "gs", "az")  # the schemes of `to`


def _place(text: str) -> str:
    parts, named = urlsplit(text), without_credentials(text)
    hint = 'use "file:///folder", "s3://bucket/folder", "gs://bucket/folder" or "az://container/folder"'
    if named != text or parts.username is not None:
        raise ValueError(
            f'"{named}" has credentials or parameters: leave them to the environment, where the client of the '
            f"store reads them; {hint}"
        )
    if parts.scheme not in PLACES:
        raise ValueError(f'"{named}" is not a place for snapshots; {hint}')
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or len(parts.path) < 2:
            raise ValueError(f'"{named}" does not name a folder by its whole path; use "file:///folder"')
    elif not parts.netloc:
        raise ValueError(f'"{named}" does not name a bucket; {hint}')
    return text


def _endpoint(text: str) -> str:
    parts, named = urlsplit(text), without_credentials(text)
    if named != text or parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f'"{named}" is not the address of an object store; use "https://host:port"')
    return text


def _every(text: str) -> str:
    if parse_duration_s(text) < 1:
        raise ValueError('must be "1s" or longer')
    return text


class SnapshotConfig(Section):
    """The table `[snapshots]`: the place, the interval, and the number of snapshots that are kept."""

    to: Annotated[str, AfterValidator(_place)]
    """A folder (`file:///…`) or bucket (`s3://…`, `gs://…`, `az://…`), which all nodes of the app reach."""
    every: Annotated[str, AfterValidator(_every)] = "10m"
    keep: Annotated[int, Field(ge=1, le=1000)] = 3
    """So many snapshots of each partition are kept, the newest ones."""
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    """The address of an object store that is not the cloud's own, such as MinIO."""

    @property
    def every_s(self) -> float:
        """How often a snapshot is taken, in seconds."""
        return parse_duration_s(self.every)
