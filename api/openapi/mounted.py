"""`GET /openapi.json`, `/docs` and `/asyncapi.json`: made at the first request for one, then kept."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import msgspec

from perdure.api.pages import Page, single
from perdure.api.problems import Problem
from perdure.objects.registry import Registry
from perdure.schemas.config import Config

if TYPE_CHECKING:  # the modules that make the pages are imported by the first request
    from perdure.api.openapi.parts import Json

_JSON = [(b"content-type", b"application/json")]


def document_pages(
    config: Config, registry: Registry, *, has_worker: bool, topics: str = ""
) -> list[tuple[str, Page]]:
    """The three pages, by their names.

    Args:
        config: the app's configuration.
        registry: its classes.
        has_worker: True if it has a Worker.
        topics: what the names of its Kafka topics begin with; empty: its name.
    """

    @cache
    def whole() -> Json:
        from perdure.api.openapi.document import document

        return document(config, registry, has_worker=has_worker)

    @cache
    def openapi() -> Problem:
        return 200, _JSON, msgspec.json.encode(whole())

    @cache
    def docs() -> Problem:
        from perdure.api.openapi.html import HTML_HEADERS, html_of

        return 200, HTML_HEADERS, html_of(whole(), config.port).encode()

    @cache
    def records() -> Problem:
        from perdure.api.openapi.asyncapi import asyncapi

        return 200, _JSON, msgspec.json.encode(asyncapi(config, registry, topics))

    return [single("asyncapi.json", records), single("openapi.json", openapi), single("docs", docs)]
