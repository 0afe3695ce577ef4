"""The port of access control: credentials of Kafka clients, their rights and quotas."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from perdure.schemas.access import Grant
from perdure.schemas.scram import ScramVerifier


class Credentials(NamedTuple):
    """A name and the token sent with it; None if the client proved by SCRAM that it knows the token."""

    name: str
    token: bytes | None


class Admission(Protocol):
    """Access control, if tokens or an issuer are configured."""

    async def prepared(self, credentials: Credentials) -> None:
        """Wait until `granted` can decide about these."""

    def granted(self, credentials: Credentials) -> Grant:
        """The grant of credentials. Raises `Unauthenticated` or `Unavailable`."""

    def verifier(self, name: str, mechanism: str) -> ScramVerifier | None:
        """The verifier of a token for a mechanism of SCRAM; None if there is none."""

    def current(self, grant: Grant) -> bool:
        """True if a grant may still be used without a new check."""

    def charge(self, grant: Grant, requests: int, body_bytes: int) -> None:
        """Count against the quota of the grant's principal. Raises `OverQuota`; then nothing is counted."""
