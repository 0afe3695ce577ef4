"""Renders the console's templates, which lie in `templates/`, and holds its style and its script.

Laws
- Each value is escaped, by Jinja's autoescape; no template marks a value as safe. [test_console.py]
- A field that an answer leaves out, since it is empty, is shown as nothing.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader

from perdure.api.problems import Problem

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_HTML = ((b"content-type", b"text/html; charset=utf-8"), *_HEADERS)
ASSETS = {
    "console.css": b"text/css; charset=utf-8",
    "console.js": b"text/javascript; charset=utf-8",
    "icon.svg": b"image/svg+xml",
}


def _time(ms: int | None) -> str:
    if ms is None:
        return ""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"


def _value(value: Any) -> str:
    """A value on one line, as JSON."""
    return json.dumps(value, ensure_ascii=False)


def _pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def object_path(key: str) -> str:
    """The path of an object's page below /console/objects/."""
    namespace, _, name = key.partition("/")
    return f"/console/objects/{quote(namespace, safe='')}/{quote(name, safe='')}"


def _href(path: str, **query: Any) -> str:
    fields = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(fields)}" if fields else path


_templates = Environment(
    loader=PackageLoader("perdure.api.console"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {"time": _time, "value": _value, "pretty": _pretty, "object_path": object_path}
_templates.globals["href"] = _href


def rendered(template: str, status: int = 200, **content: Any) -> Problem:
    """The response that a template makes of its content.

    template: the name of a file in `templates/`, without `.html`.
    status: the HTTP status.
    content: what the template shows.
    """
    return status, _HTML, _templates.get_template(f"{template}.html").render(content).encode()


def asset(name: str) -> Problem:
    """The response to a request for one of `ASSETS`."""
    assert _templates.loader is not None
    text = _templates.loader.get_source(_templates, name)[0]
    return 200, ((b"content-type", ASSETS[name]), *_HEADERS), text.encode()
