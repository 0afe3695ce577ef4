"""Browser sessions: a token as a cookie, so that the pages for people can be opened in a browser.

A browser cannot send a bearer token by itself. It signs in with one at `/console/login`, and from then on
sends it as a cookie, to the pages in `PAGES` only.

Laws [test_console.py]
- The cookie's paths are those of the pages: neither the app's Worker nor an object ever receives it, and it
  gives no access to `/objects`, `/rpc` or `/admin`.
- Scripts cannot read it, and a browser does not send it with requests that other sites begin.
- A page of this kind that is refused shows the form to sign in, to browsers only.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from hashlib import sha256
from html import escape
from urllib.parse import parse_qsl

from perdure.api.access.guard import Access, bearer_of
from perdure.api.http1.heads import RawHeaders
from perdure.api.pages import not_allowed
from perdure.api.problems import Problem
from perdure.schemas.access import KNOWN, Need
from perdure.schemas.errors import Forbidden, MalformedCommand, PerdureError, Unauthenticated

PAGES = ("console", "docs", "openapi.json")
PATHS = LOGIN, LOGOUT = b"/console/login", b"/console/logout"
COOKIE = b"perdure_token"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 26rem; margin: 15vh auto; padding: 0 1rem; }
label, input, button { display: block; width: 100%; box-sizing: border-box; font: inherit; }
input, button { padding: .5rem; margin: .25rem 0 1rem; }
"""
_HASH = base64.b64encode(sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
_HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _POLICY.encode()),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


def with_session(name: str, headers: RawHeaders) -> RawHeaders:
    """The headers of a request for a page; the token of its cookie is added if it has no bearer token."""
    if name not in PAGES or bearer_of(headers) is not None or (token := _token_in(headers)) is None:
        return headers
    return [*headers, (b"authorization", b"Bearer " + token)]


def is_browser(name: str, headers: RawHeaders) -> bool:
    """True if a request for a page for people accepts HTML."""
    return name in PAGES and any(key == b"accept" and b"text/html" in value for key, value in headers)


def login_form(target: bytes, error: PerdureError) -> Problem:
    """The page to sign in on, in place of a page that was refused; then the browser goes to `target`."""
    if isinstance(error, Forbidden):
        return _form(403, target, str(error))
    return _form(401, target, "")


async def sign_in_or_out(
    access: Access, raw_path: bytes, method: str, headers: RawHeaders, body: Callable[[], Awaitable[bytes]]
) -> Problem:
    """The response to a request for `LOGIN` or `LOGOUT`.

    access: the access control; it checks the token.
    raw_path, method, headers: of the request.
    body: reads its body, which is a form.
    """
    if raw_path == LOGOUT:
        if method != "POST":
            raise not_allowed("to sign out, send a POST", "POST")
        return 303, [*_cookies(b"", headers, b"; Max-Age=0"), (b"location", LOGIN)], b""
    if method in ("GET", "HEAD"):
        return _form(200, b"/console", "")
    if method != "POST":
        raise not_allowed("sign in with GET for the form, POST for the token", "GET", "POST")
    try:
        fields = dict(parse_qsl((await body()).decode(), max_num_fields=10))
    except ValueError as error:
        raise MalformedCommand(f"the form cannot be read: {error}") from error
    token, target = fields.get("token", "").strip().encode(), _own(fields.get("next", "").encode())
    try:
        await access.admit([(b"authorization", b"Bearer " + token)], Need(KNOWN))
    except Unauthenticated:
        return _form(401, target, "This token is not valid, or it has expired.")
    return 303, [*_cookies(token, headers, b""), (b"location", target)], b""


def _token_in(headers: RawHeaders) -> bytes | None:
    for name, value in headers:
        if name == b"cookie":
            for pair in value.split(b";"):
                key, _, token = pair.strip().partition(b"=")
                if key == COOKIE and token:
                    return token
    return None


def _own(target: bytes) -> bytes:
    """The target, if it is a page that the cookie is for; otherwise the console."""
    path = target.partition(b"?")[0]
    ours = path.lstrip(b"/").partition(b"/")[0].decode("latin-1") in PAGES
    safe = ours and target.isascii() and target.startswith(b"/") and b"//" not in path and b"\\" not in path
    return target if safe and not set(target) & set(b"\r\n\0 ") else b"/console"


def _cookies(token: bytes, headers: RawHeaders, more: bytes) -> list[tuple[bytes, bytes]]:
    secure = b"; Secure" if (b"x-forwarded-proto", b"https") in headers else b""
    attributes = b"; HttpOnly; SameSite=Strict" + secure + more
    return [
        (b"set-cookie", b"%b=%b; Path=/%b%b" % (COOKIE, token, name.encode(), attributes)) for name in PAGES
    ]


def _form(status: int, target: bytes, message: str) -> Problem:
    shown = escape(_own(target).decode("latin-1"))
    error = f'<p role="alert">{escape(message)}</p>' if message else ""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sign in</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main><h1>Sign in</h1>{error}"
        '<form method="post" action="/console/login"><label for="token">Token</label>'
        '<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>'
        f'<input type="hidden" name="next" value="{shown}"><button>Sign in</button></form>'
        "<p>A token of this app, as <code>perdure token create</code> prints it, or one of its issuer.</p>"
        "</main></body></html>"
    )
    return status, _HEADERS, text.encode()
