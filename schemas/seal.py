"""The app's seal: how an owner knows that perdure itself sent a command.

Commands that only perdure may send (alarms, socket events, calls between objects, a client's principal) bear
a seal: a hash over the record, keyed with the app's secret. The secret is never on a log nor in an error; its
*id* is, which says which secret a seal was made with.

Laws
- The seal covers the whole record: key, value and all other headers. A change to any of them breaks it.
- The first secret seals, and each of them is accepted, so that a secret can be replaced while sealed commands
  wait.
- Versions without a secret sealed with the app's uuid, which stands on the journal. Such a seal counts only
  for a record that was on the log before the app had a secret (`founding`), never for one that came later.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

SEAL_BYTES = 16
ID_BYTES = 4
HEADER = "seal"
SECRET_CHARS = 32  # at least: ids and seals can be read by others, who may guess
SECRET_BYTES = 32  # of a secret that perdure makes, before it is written as text

_encode = msgspec.msgpack.Encoder().encode
Headers = tuple[tuple[str, bytes], ...]


def secrets_in(text: str) -> tuple[str, ...]:
    """The secrets in a text, the current one first: one a line, or with commas between; `#` begins a comment.

    Raises `ValueError`, which quotes none of them.
    """
    lines = (line.partition("#")[0] for line in text.splitlines())
    secrets = tuple(each.strip() for line in lines for each in line.split(",") if each.strip())
    if not secrets:
        raise ValueError("it holds no secret")
    if any(len(each) < SECRET_CHARS for each in secrets):
        raise ValueError(
            f"a secret must have {SECRET_CHARS} characters or more; `perdure secret create` makes one"
        )
    return secrets


def _checked(text: SecretStr) -> SecretStr:
    secrets_in(text.get_secret_value())
    return text


def _by_comma(value: object) -> object:
    """An environment variable is one text; a file has a list."""
    return tuple(value.split(",")) if isinstance(value, str) else value


SealSecrets = Annotated[SecretStr, AfterValidator(_checked)]
SecretIds = Annotated[tuple[str, ...], BeforeValidator(_by_comma), Field(strict=False)]


def fingerprint(name: str) -> str:
    """A short hash that messages show in place of a confidential name: enough to tell two apart."""
    return blake2b(name.encode(), digest_size=ID_BYTES).hexdigest()


class Seal:
    """The seal of an app: signs and verifies records with secrets that all its nodes share.

    secret: signs and verifies; `previous` ones only verify.
    app: keeps apps apart that share a secret.
    founding: the app's uuid, for seals of versions without a secret; None: none of them counts.
    lost: ids of secrets that are lost for good; the app need not wait for one of them to judge a command.
    """

    __slots__ = ("_founding", "_id", "_key", "_keys", "_lost", "id")

    def __init__(
        self,
        secret: str,
        *previous: str,
        app: str = "",
        founding: str | None = None,
        lost: Iterable[str] = (),
    ) -> None:
        self._keys = {}
        for each in (*previous, secret):
            key = blake2b(f"{app}\0{each}".encode(), digest_size=32, person=b"perdure seal").digest()
            self._keys[blake2b(key, digest_size=ID_BYTES, person=b"perdure id").digest()] = key
        self._id, self._key = list(self._keys.items())[-1]
        self.id = self._id.hex()
        self._founding = None if founding is None else blake2b(founding.encode(), digest_size=32).digest()
        self._lost = frozenset(lost)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all its secrets, the current one first."""
        return tuple(each.hex() for each in reversed(self._keys))

    def settles(self, id_: str) -> bool:
        """True if commands sealed with that secret can be judged: it is one of these, or known to be lost."""
        return not id_ or id_ in self.ids or id_ in self._lost

    def sealed(self, key: bytes | None, value: bytes | None, headers: Headers) -> Headers:
        """The headers with the seal."""
        return (*headers, (HEADER, self._id + _hash(self._key, key, value, headers)))

    def renewed(self, key: bytes | None, value: bytes | None, headers: Headers) -> Headers:
        """The headers of a record of the journal, with the seal of the current secret in place of an older
        one."""
        if not headers or headers[-1][0] != HEADER or headers[-1][1].startswith(self._id):
            return headers
        return self.sealed(key, value, headers[:-1])

    def holds(
        self, key: bytes | None, value: bytes | None, headers: Headers, *, founding: bool = False
    ) -> bool:
        """True if the record is as perdure sealed it.

        key, value, headers: those of the record.
        founding: it is older than the app's secret.
        """
        plain = tuple(header for header in headers if header[0] != HEADER)
        seals = [value for name, value in headers if name == HEADER]
        if len(seals) != 1:
            return False
        seal = seals[0]
        if len(seal) == SEAL_BYTES:
            secret = self._founding if founding else None
        else:
            secret, seal = self._keys.get(seal[:ID_BYTES]), seal[ID_BYTES:]
        return secret is not None and hmac.compare_digest(seal, _hash(secret, key, value, plain))


def _hash(secret: bytes, key: bytes | None, value: bytes | None, headers: Headers) -> bytes:
    return blake2b(_encode((key, value, headers)), digest_size=SEAL_BYTES, key=secret).digest()


def id_of(headers: Headers) -> str:
    """The id of the secret that a record says it is sealed with; empty: none."""
    for name, value in headers:
        if name == HEADER and len(value) == ID_BYTES + SEAL_BYTES:
            return value[:ID_BYTES].hex()
    return ""
