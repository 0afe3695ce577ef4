"""Refuses requests that web pages of other sites make a browser send: a decision by a request's head and the
configuration.

A browser lets each page send requests to every server that it can reach, this one too, and adds the user's
cookies. It only hides the response from a page of another site. Even that fails if the page's own name
resolves to this server (DNS rebinding): then the browser takes both for one site. Each door calls
`Origins.check` first.

Laws [test_origins.py]
- A browser states the site of the page: by `Sec-Fetch-Site`, or by `Origin`, which is compared with `Host`. A
  client that sends neither is not a browser, or is a browser that only reads.
- A request that may change something is refused (403) for pages of other sites that `allowed_origins` does
  not name. That includes each request for an object except a followed link, since objects see GET too;
  elsewhere each method except GET, HEAD and OPTIONS; and each WebSocket.
- A bearer token is never sent by accident: a page of another site cannot set it without permission (CORS).
- If only this machine can reach the server, or if `allowed_hosts` is set, its names are `localhost`, those of
  `allowed_hosts` and `host`, addresses, and names without a dot, which cannot be registered. A request under
  another name is refused, also if it only reads, unless tokens are required and it has one. Otherwise each
  name is accepted, since the server does not know its names.
- `/livez` and `/readyz` answer all requests.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

from perdure.api.access.guard import OPEN, OWN
from perdure.api.http1.heads import RawHeaders
from perdure.api.pages import Refused, first_of, for_object
from perdure.api.problems import problem
from perdure.schemas.config import Config
from perdure.schemas.statuses import STATUS

_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_OWN_SITE = frozenset((b"same-origin", b"none"))
_SAID = frozenset((b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"authorization"))
_LABEL = re.compile(r"[a-z0-9_-]+")


class RequestSource(NamedTuple):
    """The headers of a request that identify its sender; empty if they are missing."""

    host: bytes
    origin: bytes = b""
    site: bytes = b""
    mode: bytes = b""
    bearer: bool = False


class Origins:
    """The check of a node.

    Args:
        pages: origins whose pages are allowed; `*` allows all.
        hosts: names of this server; None if each name is accepted.
        guarded: True if tokens are required.
        has_worker: True if paths that are not perdure's belong to the app's Worker.
    """

    def __init__(
        self,
        *,
        pages: tuple[str, ...] = (),
        hosts: tuple[str, ...] | None = None,
        guarded: bool = False,
        has_worker: bool = False,
    ) -> None:
        self._pages = frozenset(each.encode() for each in pages)
        self._hosts = None if hosts is None or "*" in hosts else frozenset(hosts)
        self._guarded = guarded
        self._has_worker = has_worker
        self._is_ours = lru_cache(1024)(self._is_our_host)

    @classmethod
    def of(cls, config: Config, *, has_worker: bool) -> Origins:
        """The check that a configuration describes."""
        bounded = bool(config.allowed_hosts) or not config.is_public
        hosts = (*config.allowed_hosts, config.host.lower()) if bounded else None
        return cls(pages=config.allowed_origins, hosts=hosts, guarded=config.guarded, has_worker=has_worker)

    def plain(self, headers: RawHeaders) -> bool:
        """True if these headers pass on each path: they are not from a browser, and name this server."""
        return _is_plain(sender := source_of(headers)) and self._is_ours(sender.host)

    def check(self, method: str, raw_path: bytes, headers: RawHeaders, *, socket: bool = False) -> None:
        """Raises `Refused` for a request that is not allowed.

        Args:
            method: the HTTP method.
            raw_path: the path as it was sent.
            headers: the headers as they were sent, with names in lower case.
            socket: True for an upgrade to a WebSocket.
        """
        sender = source_of(headers)
        ours = self._is_ours(sender.host)
        if ours and _is_plain(sender):
            return
        name = first_of(raw_path)
        if name in OPEN:
            return
        for_worker = self._has_worker and name not in OWN
        if not ours and not (sender.bearer and self._guarded and not for_worker):
            host = sender.host.decode("latin-1")[:200]
            message = (
                f"this server is not known as {host}: a page could have made that name lead here. If it is "
                f'this server\'s, add it to allowed_hosts, without the port (allowed_hosts = ["app.example.com"])'
            )
            raise Refused(problem("host-refused", message, status=STATUS["host-refused"]))
        if sender.bearer and not socket:
            return
        changes = socket or method not in _SAFE or (for_object(raw_path) and sender.mode != b"navigate")
        if changes and self._is_foreign(sender):
            page = sender.origin.decode("latin-1")[:200] or "another site"
            message = (
                f"a page of {page} sent this request without a bearer token. To allow that, add its origin "
                'to allowed_origins (allowed_origins = ["https://example.com"])'
            )
            raise Refused(problem("origin-refused", message, status=STATUS["origin-refused"]))

    def _is_foreign(self, sender: RequestSource) -> bool:
        if b"*" in self._pages or sender.origin in self._pages:
            return False
        if sender.site:
            return sender.site not in _OWN_SITE
        return sender.origin != b"" and not _is_same(sender.origin, sender.host)

    def _is_our_host(self, host: bytes) -> bool:
        if self._hosts is None or not host:  # without a Host it is HTTP/1.0, which browsers do not use
            return True
        name = _name_in(host)
        if name in self._hosts or name.endswith(".localhost") or _LABEL.fullmatch(name):
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def source_of(headers: RawHeaders) -> RequestSource:
    """The sender's headers; the values of a repeated one are joined, so that they match nothing."""
    said: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _SAID:
            said[name] = said[name] + b", " + value if name in said else value
    scheme = said.get(b"authorization", b"").partition(b" ")[0]
    return RequestSource(
        said.get(b"host", b""),
        said.get(b"origin", b""),
        said.get(b"sec-fetch-site", b"").lower(),
        said.get(b"sec-fetch-mode", b"").lower(),
        scheme.lower() == b"bearer",
    )


def _is_plain(sender: RequestSource) -> bool:
    return not sender.origin and not sender.site


def _name_in(host: bytes) -> str:
    """The name in a `Host`, in lower case, without the port and the dot that may end it."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0].removesuffix(".")


def _is_same(origin: bytes, host: bytes) -> bool:
    """True if a page of `origin` has this `Host`; the default port of its scheme may be given or not."""
    scheme, _, place = origin.lower().partition(b"://")
    port = {b"http": b":80", b"https": b":443"}.get(scheme)
    return port is not None and place.removesuffix(port) == host.lower().removesuffix(port)
