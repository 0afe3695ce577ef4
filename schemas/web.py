"""What a configuration says of the web: which pages may use this server, and by which names it is reached."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from perdure.schemas.secrecy import without_credentials

_ORIGIN = re.compile(r"https?://[^/?#@\s]+")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def _by_comma(value: object) -> object:
    """An environment variable is one text; a file has a list."""
    return tuple(value.split(",")) if isinstance(value, str) else value


def _origin(text: str) -> str:
    if text != "*" and not _ORIGIN.fullmatch(text):
        raise ValueError(
            f'"{without_credentials(text)}" is not an origin; use one such as "https://example.com", or "*"'
        )
    return text


def _host(text: str) -> str:
    name = text.lower().removesuffix(".")
    if name != "*" and not _HOST.fullmatch(name):
        raise ValueError(
            f'"{without_credentials(text)}" is not a host name; use one such as "app.example.com", without port, or "*"'
        )
    return name


Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_origin)], ...], BeforeValidator(_by_comma), Field(strict=False)
]
"""Web pages by scheme and host, `https://example.com`; `*` is all."""
HostNames = Annotated[
    tuple[Annotated[str, AfterValidator(_host)], ...], BeforeValidator(_by_comma), Field(strict=False)
]
"""Names of this server, in lower case and without ports; `*` is all."""
