"""The HTTP client of a node, which `perdure.fetch` uses in handlers and in the Worker.

Laws [test_outgoing.py]
- A response is read completely and never beyond the limit; the time-out includes redirects and reading.
- Nothing is kept between requests: no cookies, no credentials.
- A failure outside raises a `FetchFailed` that names the URL, without its user and query.
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
# headers of the connection, and those that are not true any more once the body is read and decompressed
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
    """The `Outside` of objects/outgoing.py, over HTTP; `body_bytes` bounds
    responses, `timeout_s` is a default.
    """

    def __init__(self, *, body_bytes: int, timeout_s: float) -> None:
        self._body_bytes = body_bytes
        self._timeout_s = timeout_s
        self._client: asyncio.Future[httpx.AsyncClient] | None = None

    async def request(
        self, method: str, url: str, headers: Pairs, body: bytes, timeout_s: float | None
    ) -> FetchedResponse:
        """See `Outside.request`. The default time-out applies if `timeout_s` is None."""
        if self._client is None:  # loading its certificates takes 50 ms, and most apps never use it
            self._client = asyncio.ensure_future(asyncio.to_thread(_new_client))
        client = await asyncio.shield(self._client)
        return await self._bounded(client, method, url, headers, body, timeout_s)

    async def close(self) -> None:
        """Close the open connections."""
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
        request = f"{method} {_shown(url)}"
        try:
            async with asyncio.timeout(limit_s):
                return await self._read(client, method, url, headers, body)
        except TimeoutError as error:
            raise FetchTimedOut(f"{request} did not end within {limit_s:g} s") from error
        except FetchTooLarge as error:
            raise FetchTooLarge(f"{request}: {error}") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise FetchFailed(f"{request} failed: {type(error).__name__}: {error}") from error

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

    import httpx  # takes 60 ms, and most apps never use it

    return httpx.AsyncClient(
        follow_redirects=True,
        max_redirects=REDIRECTS,
        limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
        timeout=None,  # `_bounded` has one for all of it
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


def _shown(url: str) -> str:
    """A URL without its user and query, which may hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:200]
