"""Which requests of web pages are refused: a decision by a request's head and the configuration, the same at every door.

A browser lets each page that it shows send requests to every server that it reaches, this one too, and sends the user's
cookies with them. Only what they are answered is kept from a page of another site, unless that page's own name has been
made to lead here (DNS rebinding): then the browser takes both for one site.

Laws
- A browser says whose page asks: `Sec-Fetch-Site`, or `Origin`, compared with `Host`, where that is not sent. A client that
  sends neither is not a browser, or asks for what is only read.
- What may change something is refused (403) for pages of other sites that `allowed_origins` does not name. That is every
  request for an object but a link that is followed, since objects see GET too; elsewhere what is not GET, HEAD or OPTIONS; and
  every WebSocket.
- A bearer token is not sent by accident: a page of another site cannot set it without being allowed to first (CORS).
- Where only this machine reaches the server, and where `allowed_hosts` is set, it has the names `localhost`, those of
  `allowed_hosts` and `host`, addresses, and names without a dot: nobody can register such a one and make it lead here. A request
  under any other name is refused, reads too, unless a token is asked for and there. Without such a bound each name is
  the server's, since names are given outside of it.
- `/livez` and `/readyz` answer everybody.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

from perdure.api.access.guard import OPEN, OWN
from perdure.api.http1.heads import RawHeaders
from perdure.api.pages import Refused, first_of, for_object
from perdure.api.problems import STATUS, problem
from perdure.schemas.config import Config

_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_OWN_SITE = frozenset((b"same-origin", b"none"))
_SAID = frozenset((b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"authorization"))
_LABEL = re.compile(r"[a-z0-9_-]+")


class RequestSource(NamedTuple):
    """What a request's headers say of who sends it; empty is not said."""

    host: bytes
    origin: bytes = b""
    site: bytes = b""
    mode: bytes = b""
    bearer: bool = False


class Origins:
    """The decision. `guarded`: tokens are asked for; `has_worker`: paths that are not perdure's are the app's own code's."""

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
        """The decision as a configuration has it."""
        bounded = bool(config.allowed_hosts) or not config.is_public
        hosts = (*config.allowed_hosts, config.host.lower()) if bounded else None
        return cls(pages=config.allowed_origins, hosts=hosts, guarded=config.guarded, has_worker=has_worker)

    def plain(self, headers: RawHeaders) -> bool:
        """True if a request with these headers is refused on no path: it is not a browser's, and names this server."""
        return _is_plain(sender := source_of(headers)) and self._is_ours(sender.host)

    def check(self, method: str, raw_path: bytes, headers: RawHeaders, *, socket: bool = False) -> None:
        """Raises `Refused` for a request that is. `socket`: it asks for a WebSocket."""
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
            told = (
                f"this server is not known as {host}: a page could have made that name lead here. If it is this "
                f'server\'s, add it to allowed_hosts, without the port (allowed_hosts = ["app.example.com"])'
            )
            raise Refused(problem("host-refused", told, status=STATUS["host-refused"]))
        if sender.bearer and not socket:
            return
        changes = socket or method not in _SAFE or (for_object(raw_path) and sender.mode != b"navigate")
        if changes and self._is_foreign(sender):
            page = sender.origin.decode("latin-1")[:200] or "another site"
            told = (
                f"a page of {page} asked for this without a bearer token. If it may, add its origin to allowed_origins "
                '(allowed_origins = ["https://example.com"])'
            )
            raise Refused(problem("origin-refused", told, status=STATUS["origin-refused"]))

    def _is_foreign(self, sender: RequestSource) -> bool:
        if b"*" in self._pages or sender.origin in self._pages:
            return False
        if sender.site:
            return sender.site not in _OWN_SITE
        return sender.origin != b"" and not _is_same(sender.origin, sender.host)

    def _is_our_host(self, host: bytes) -> bool:
        if self._hosts is None or not host:  # without one it is HTTP/1.0, which no browser speaks
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
    """What the headers say of who sends them; what is said twice is said by nobody that is known here."""
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
    """True if a page of `origin` has this `Host`; a port that its scheme has anyway may be said or not."""
    scheme, _, place = origin.lower().partition(b"://")
    port = {b"http": b":80", b"https": b":443"}.get(scheme)
    return port is not None and place.removesuffix(port) == host.lower().removesuffix(port)
