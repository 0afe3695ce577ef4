"""Access control for Kafka clients: the tokens, issuer and quotas of HTTP, by way of SASL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from perdure.api.access.guard import Access
from perdure.schemas.access import Grant, Token
from perdure.schemas.errors import Unauthenticated
from perdure.schemas.scram import ScramVerifier, parse_verifier
from perdure.streams.wire.admission import Credentials


class KafkaAdmission:
    """The port `Admission` of the Kafka listener over a node's access control."""

    def __init__(self, access: Access, tokens: Sequence[Token]) -> None:
        self._access = access
        self._grants = {token.name: token.grant for token in tokens}
        verifiers = [(token.name, parse_verifier(text)) for token in tokens for text in token.scram]
        self._verifiers = {(name, verifier.mechanism): verifier for name, verifier in verifiers}

    async def prepared(self, credentials: Credentials) -> None:
        """Wait for the keys of an issuer, if they have to be fetched."""
        if (waits := self._access.pending(credentials.token)) is not None:
            await asyncio.wait((waits,))

    def granted(self, credentials: Credentials) -> Grant:
        """See `Admission.granted`; the name has to be that of the token."""
        name, token = credentials
        grant = self._grants.get(name) if token is None else self._access.authenticate(token)
        if grant is None or grant.principal != name or not self._access.left_s(grant) > 0:
            raise Unauthenticated
        return grant

    def verifier(self, name: str, mechanism: str) -> ScramVerifier | None:
        return self._verifiers.get((name, mechanism))

    def current(self, grant: Grant) -> bool:
        return self._access.current(grant)

    def charge(self, grant: Grant, requests: int, body_bytes: int) -> None:
        self._access.charge(grant, requests, body_bytes)
