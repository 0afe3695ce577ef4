"""Which requests of web pages are refused: a table, and laws that hold for whatever browsers send."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.api.access.origins import Origins
from perdure.api.pages import Refused
from perdure.schemas.config import Config

LOCAL = Origins.of(Config(), has_worker=False)
FRIENDLY = Origins.of(Config(allowed_origins=["https://friend.example"]), has_worker=False)
NAMED = Origins.of(Config(allowed_hosts=["App.example.com."]), has_worker=False)
PUBLIC = Origins.of(Config(host="0.0.0.0", insecure_public=True), has_worker=False)
WITH_WORKER = Origins.of(Config(), has_worker=True)
TOKENS = [{"name": "a", "sha256": "0" * 64, "scopes": []}]
GUARDED = Origins.of(Config(tokens=TOKENS), has_worker=True)
EVIL = {"origin": "http://evil.example", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
IMAGE = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
OLD = {"origin": "http://evil.example"}
OWN = {"origin": "http://localhost:8787", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
BEARER = {"authorization": "Bearer pdr_x"}
REBOUND = {"host": "evil.example:8787"}


def refused(
    origins: Origins, method: str, path: str, headers: dict[str, str], *, socket: bool = False
) -> str:
    """Why it is refused; empty: it is not."""
    raw = [(n.encode(), v.encode("latin-1")) for n, v in ({"host": "localhost:8787"} | headers).items()]
    try:
        origins.check(method, path.encode(), raw, socket=socket)
    except Refused as error:
        status, _, body = error.problem
        assert status == 403
        assert not origins.plain(raw)
        why = body.partition(b'","title')[0].rpartition(b":")[2].decode()
        assert b"allowed_" in body, "it does not say what to configure"
        return why
    return ""


ORIGIN, HOST = "origin-refused", "host-refused"
DECISIONS = [
    # programs, which say nothing of pages
    (LOCAL, "POST", "/rpc/A/a/x", {}, ""),
    (LOCAL, "POST", "/rpc/A/a/x", {"host": "x"}, ""),
    (LOCAL, "POST", "/rpc/A/a/x", {"host": "127.0.0.1:8787"}, ""),
    (LOCAL, "POST", "/rpc/A/a/x", {"host": "[::1]:8787"}, ""),
    (LOCAL, "POST", "/rpc/A/a/x", {"host": "10.1.2.3"}, ""),
    (LOCAL, "POST", "/rpc/A/a/x", {"host": "app.localhost."}, ""),
    # a page of another site
    (LOCAL, "POST", "/rpc/A/a/x", EVIL, ORIGIN),
    (LOCAL, "POST", "/objects/A/a", EVIL, ORIGIN),
    (LOCAL, "GET", "/objects/A/a", EVIL, ORIGIN),
    (LOCAL, "GET", "/objects/A/a", IMAGE, ORIGIN),
    (LOCAL, "OPTIONS", "/objects/A/a", EVIL, ORIGIN),
    (LOCAL, "GET", "/objects/A/a", LINK, ""),
    (LOCAL, "GET", "/objects/A/a", {}, ""),  # an old browser's image, or curl
    (LOCAL, "POST", "/objects/A/a", LINK, ORIGIN),  # a form
    (LOCAL, "POST", "/admin/objects/A/a/pause", EVIL, ORIGIN),
    (LOCAL, "GET", "/admin/config", EVIL, ""),  # it cannot read the answer
    (LOCAL, "POST", "/livez", EVIL, ""),
    (LOCAL, "POST", "/rpc/A/a/x", OLD, ORIGIN),
    (LOCAL, "POST", "/rpc/A/a/x", {"origin": "null"}, ORIGIN),
    (LOCAL, "POST", "/rpc/A/a/x", {"origin": "http://[", "sec-fetch-site": ""}, ORIGIN),
    (LOCAL, "POST", "/rpc/A/a/x", {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"}, ORIGIN),
    (LOCAL, "POST", "/rpc/A/a/x", {"sec-fetch-site": "something-new"}, ORIGIN),
    # its own pages
    (LOCAL, "POST", "/rpc/A/a/x", OWN, ""),
    (LOCAL, "POST", "/rpc/A/a/x", {"origin": "http://LOCALHOST:8787"}, ""),
    (LOCAL, "POST", "/rpc/A/a/x", {"origin": "http://localhost", "host": "localhost:80"}, ""),
    (LOCAL, "POST", "/rpc/A/a/x", {"origin": "https://localhost:443", "host": "localhost"}, ""),
    (LOCAL, "POST", "/rpc/A/a/x", {"origin": "https://localhost:80", "host": "localhost"}, ORIGIN),
    (LOCAL, "POST", "/rpc/A/a/x", {"sec-fetch-site": "none"}, ""),
    # a proxy that asks under a name of its own
    (LOCAL, "POST", "/rpc/A/a/x", {"origin": "https://app.example.com", "sec-fetch-site": "same-origin"}, ""),
    # pages that may
    (FRIENDLY, "POST", "/rpc/A/a/x", EVIL | {"origin": "https://friend.example"}, ""),
    (FRIENDLY, "POST", "/rpc/A/a/x", EVIL, ORIGIN),
    (Origins(pages=("*",)), "POST", "/rpc/A/a/x", EVIL, ""),
    # a bearer token is not sent by accident
    (LOCAL, "POST", "/rpc/A/a/x", EVIL | BEARER, ""),
    (LOCAL, "POST", "/rpc/A/a/x", EVIL | {"authorization": "Basic eDp5"}, ORIGIN),
    # a name that leads here and is not known
    (LOCAL, "GET", "/objects/A/a", REBOUND, HOST),
    (LOCAL, "GET", "/admin/objects/A/a/state", REBOUND, HOST),
    (LOCAL, "GET", "/none", REBOUND, HOST),
    (
        LOCAL,
        "POST",
        "/rpc/A/a/x",
        REBOUND | {"origin": "http://evil.example:8787", "sec-fetch-site": "same-origin"},
        HOST,
    ),
    (LOCAL, "POST", "/rpc/A/a/x", REBOUND | BEARER, HOST),  # nobody looks at it
    (LOCAL, "GET", "/livez", REBOUND, ""),
    (LOCAL, "GET", "/objects/A/a", {"host": "evil.example."}, HOST),
    (LOCAL, "GET", "/objects/A/a", {"host": "evil%2eexample"}, HOST),
    (LOCAL, "GET", "/objects/A/a", {"host": "localhost.evil.example"}, HOST),
    (LOCAL, "GET", "/objects/A/a", {"host": "127.0.0.1.evil.example"}, HOST),
    (GUARDED, "GET", "/objects/A/a", REBOUND | BEARER, ""),  # it will be looked at
    (GUARDED, "GET", "/objects/A/a", REBOUND, HOST),
    (GUARDED, "GET", "/mine", REBOUND | BEARER, HOST),
    (NAMED, "GET", "/objects/A/a", {"host": "app.example.com:80"}, ""),
    (NAMED, "GET", "/objects/A/a", {"host": "APP.example.com."}, ""),
    (NAMED, "GET", "/objects/A/a", REBOUND, HOST),
    (PUBLIC, "GET", "/objects/A/a", {"host": "app.example.com"}, ""),
    (PUBLIC, "POST", "/objects/A/a", {"host": "app.example.com"} | EVIL, ORIGIN),
    (
        Origins.of(Config(host="0.0.0.0", allowed_hosts=["a.example"]), has_worker=False),
        "GET",
        "/",
        REBOUND,
        HOST,
    ),
    (Origins.of(Config(allowed_hosts=["*"]), has_worker=False), "GET", "/objects/A/a", REBOUND, ""),
    # the Worker's paths
    (WITH_WORKER, "GET", "/page", IMAGE, ""),
    (WITH_WORKER, "POST", "/page", EVIL, ORIGIN),
    (WITH_WORKER, "POST", "/page", OWN, ""),
    (WITH_WORKER, "OPTIONS", "/page", EVIL, ""),  # it may answer such a question itself
    (WITH_WORKER, "GET", "/page", REBOUND, HOST),
]


@pytest.mark.parametrize(("origins", "method", "path", "headers", "why"), DECISIONS)
def test_a_request_is_refused_or_not(
    origins: Origins, method: str, path: str, headers: dict[str, str], why: str
) -> None:
    """By who sends it, what it may change, and by which name it came."""
    assert refused(origins, method, path, headers) == why


@pytest.mark.parametrize(
    ("origins", "headers", "why"),
    [
        (LOCAL, {}, ""),
        (LOCAL, {"origin": "http://localhost:8787"}, ""),
        (LOCAL, EVIL, ORIGIN),
        (LOCAL, OLD | BEARER, ORIGIN),  # a browser sends none with it
        (LOCAL, LINK, ORIGIN),
        (LOCAL, REBOUND | {"origin": "http://evil.example:8787"}, HOST),
        (FRIENDLY, {"origin": "https://friend.example"}, ""),
    ],
)
def test_a_websocket_is_refused_or_not(origins: Origins, headers: dict[str, str], why: str) -> None:
    """As what may change something, by whatever method and way it is asked for."""
    assert refused(origins, "GET", "/objects/A/a", headers, socket=True) == why
    assert refused(origins, "GET", "/mine", headers, socket=True) == why


SITES = [None, "same-origin", "same-site", "cross-site", "none"]
FROM = [None, "http://localhost:8787", "http://evil.example", "null"]
METHODS = st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "QUERY"])
PATHS = st.sampled_from(
    ["/objects/A/a", "/rpc/A/a/x", "/admin/x", "/commands/1", "/mine", "/", "//admin", "/%61dmin"]
)


@given(
    METHODS,
    PATHS,
    st.sampled_from(SITES),
    st.sampled_from(FROM),
    st.sampled_from(["cors", "no-cors", "navigate"]),
)
def test_no_page_of_another_site_changes_anything(
    method: str, path: str, site: str | None, origin: str | None, mode: str
) -> None:
    """Whatever a browser sends for it: what it says of the site decides, else the
    origin; and own pages are never refused.
    """
    headers = {"sec-fetch-mode": mode}
    headers |= {} if site is None else {"sec-fetch-site": site}
    headers |= {} if origin is None else {"origin": origin}
    own = site in ("same-origin", "none") if site else origin in (None, "http://localhost:8787")
    safe = method in ("GET", "HEAD", "OPTIONS")
    for origins, socket in product((LOCAL, WITH_WORKER, PUBLIC), (False, True)):
        why = refused(origins, method, path, headers, socket=socket)
        if own:
            assert why == ""
        elif socket or not safe or (path.startswith(("/objects/", "/rpc/")) and mode != "navigate"):
            assert why == ORIGIN
        else:
            assert why == ""


@given(METHODS, PATHS, st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5}){1,3}\.?(:[0-9]{1,5})?", fullmatch=True))
def test_no_name_of_somebody_elses_reaches_anything(method: str, path: str, host: str) -> None:
    """Any name with a dot, which its owner could make lead here, whatever else is said."""
    if host.partition(":")[0].removesuffix(".").endswith(".localhost"):
        return
    for headers in ({}, OWN, BEARER, {"origin": f"http://{host}", "sec-fetch-site": "same-origin"}):
        assert refused(LOCAL, method, path, headers | {"host": host}) == HOST
