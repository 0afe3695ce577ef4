"""The way out: HTTP requests of handlers and Workers, by one pooled client per node.

Laws
- A response is read whole and never beyond the limit; the time-out is for all of it, redirects and reading included.
- Nothing is remembered between requests: no cookies, no credentials.
- What can fail outside is told as a `FetchFailed` that names where it went, without the URL's user and query.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from perdure.objects.http import FetchedResponse
from perdure.schemas.errors import FetchFailed, FetchTimedOut, FetchTooLarge
from perdure.schemas.replies import Pairs

if TYPE_CHECKING:
    import httpx

REDIRECTS = 5
CONNECTIONS = 100
# of the connection, or no longer true of a body that has been read and unpacked
_OF_THE_WIRE = frozenset(
    (
        "connection",
        "content-encoding",
        "content-length",
        "keep-alive",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


class Outgoing:
    """`perdure.objects.outgoing.Outside` over HTTP; `body_bytes` bounds a response, `timeout_s` is the default."""

    def __init__(self, *, body_bytes: int, timeout_s: float) -> None:
        self._body_bytes = body_bytes
        self._timeout_s = timeout_s
        self._client: asyncio.Future[httpx.AsyncClient] | None = None

    async def request(
        self, method: str, url: str, headers: Pairs, body: bytes, timeout_s: float | None
    ) -> FetchedResponse:
        """See `Outside`."""
        if self._client is None:  # its certificates take 50 ms to load, and most apps never ask for it
            self._client = asyncio.ensure_future(asyncio.to_thread(_new_client))
        client = await asyncio.shield(self._client)
        return await self._bounded(client, method, url, headers, body, timeout_s)

    async def close(self) -> None:
        """Close what connections there are."""
        if self._client is not None:
            await (await self._client).aclose()

    async def _bounded(
        self,
        client: httpx.AsyncClient,
        method: str,
        url: str,
        headers: Pairs,
        body: bytes,
        timeout_s: float | None,
    ) -> FetchedResponse:
        import httpx

        limit_s = self._timeout_s if timeout_s is None else timeout_s
        told = f"{method} {_shown(url)}"
        try:
            async with asyncio.timeout(limit_s):
                return await self._read(client, method, url, headers, body)
        except TimeoutError as error:
            raise FetchTimedOut(f"{told} did not end within {limit_s:g} s") from error
        except FetchTooLarge as error:
            raise FetchTooLarge(f"{told}: {error}") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise FetchFailed(f"{told} failed: {type(error).__name__}: {error}") from error

    async def _read(
        self, client: httpx.AsyncClient, method: str, url: str, headers: Pairs, body: bytes
    ) -> FetchedResponse:
        async with client.stream(method, url, headers=list(headers), content=body or None) as response:
            read, size = [], 0
            async for chunk in response.aiter_bytes():
                size += len(chunk)
                if size > self._body_bytes:
                    raise FetchTooLarge(
                        f"the response has over {self._body_bytes} bytes (limits.fetch_bytes)"
                    )
                read.append(chunk)
            named = ((name.lower(), value) for name, value in response.headers.multi_items())
            kept = tuple(each for each in named if each[0] not in _OF_THE_WIRE)
            return FetchedResponse(response.status_code, kept, b"".join(read))


def _new_client() -> httpx.AsyncClient:
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    import httpx  # 60 ms, and most apps never ask for it

    return httpx.AsyncClient(
        follow_redirects=True,
        max_redirects=REDIRECTS,
        limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
        timeout=None,  # one for the whole, above
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


def _shown(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:200]
