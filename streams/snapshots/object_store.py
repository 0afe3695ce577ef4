"""Snapshots in S3, Google Cloud Storage or Azure, by `obstore`.

Credentials come from where each cloud's own tools read them (`AWS_ACCESS_KEY_ID`, a role of the machine,
`GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_KEY` and so on), never from perdure's configuration.

Laws
- `put` is a conditional one: the store itself refuses a second object of a name.
- A request is tried again by obstore, for `RETRY_S` at most; then it is a `StorageFailed`, which names the
  bucket and not the credentials.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import ObjectStore, from_url

from perdure.schemas.errors import ConfigError, StorageFailed
from perdure.schemas.secrecy import without_credentials

RETRY_S = 30
REQUEST_S = 60


class BucketPlace:
    """A place below the URL of a bucket. `endpoint`: the address of a store that is not the cloud's own."""

    def __init__(self, url: str, endpoint: str | None = None) -> None:
        self._url = without_credentials(url)
        name = "base_url" if url.startswith("gs:") else "endpoint"
        options: dict[str, str] = {} if endpoint is None else {name: endpoint}
        insecure = endpoint is not None and endpoint.startswith("http://")
        opened: Any = from_url  # typed for one cloud at a time
        try:
            self._store: ObjectStore = opened(
                url,
                config=options,
                client_options={"timeout": timedelta(seconds=REQUEST_S), "allow_http": insecure},
                retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=RETRY_S)},
            )
        except (BaseError, ValueError) as error:
            raise ConfigError(f"snapshots.to = {self._url!r}: {_text(error)}") from error

    def names(self, prefix: str) -> dict[str, int]:
        with self._errors("list"):
            return {
                each["path"]: each["size"]
                for chunk in obstore.list(self._store, prefix=prefix + "/")
                for each in chunk
            }

    def get(self, name: str) -> bytes | None:
        with self._errors("read"):
            try:
                return obstore.get(self._store, name).bytes().to_bytes()
            except (NotFoundError, FileNotFoundError):
                return None

    def put(self, name: str, data: bytes) -> bool:
        with self._errors("write"):
            try:
                obstore.put(self._store, name, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

    def delete(self, name: str) -> None:
        with self._errors("delete"):
            try:
                obstore.delete(self._store, name)
            except (NotFoundError, FileNotFoundError):
                return

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            raise StorageFailed(f"cannot {doing} snapshots at {self._url}: {_text(error)}") from error


def _text(error: Exception) -> str:
    """The first line of obstore's errors: those behind it repeat it with all details of the request."""
    return str(error).strip().partition("\n")[0]
