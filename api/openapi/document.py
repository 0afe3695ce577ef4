"""The OpenAPI 3.1 document of an app: what its HTTP paths accept and answer, made of its classes alone.

Laws
- No code of the app runs for it, and the same app gives the same bytes in every process. Its version is a
  hash of its content.
- A path that cannot be reached is not in it: objects behind a Worker, tickets where access is not guarded.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from perdure.api.openapi import objects
from perdure.api.openapi.pages import DESCRIBED, TAG
from perdure.api.openapi.parts import BEARER, HEADERS, PARAMETERS, SCHEMAS, About, Json
from perdure.objects.registry import Registry
from perdure.schemas.config import Config

_ABOUT = """Each object has a name, its own state, and does one thing at a time.

- `POST /rpc/NAMESPACE/NAME/METHOD` with `{"args": […], "kwargs": {…}}` calls a method.
- `/objects/NAMESPACE/NAME/PATH` is answered by the object's `fetch`, whatever the HTTP method.
- Errors are `application/problem+json`; their types are stable. 503: not done, send it again. 504: the outcome is unknown.
- Arguments are read as pydantic reads them: where the schema says integer, `"2"` is accepted, too."""
_BEHIND = (
    """The objects of this app are behind its Worker, which answers all paths that are not listed here."""
)


def document(config: Config, registry: Registry, *, has_worker: bool) -> Json:
    """The document of an app."""
    reachable = not has_worker or config.expose or config.guarded
    kinds = registry.types if reachable else {}
    of_app = About(config.guarded, reachable, has_worker and config.expose, tuple(sorted(kinds)))
    described_types = objects.signatures(kinds)
    paths: Json = objects.paths(of_app, kinds, described_types)
    for page in sorted(DESCRIBED):
        paths |= DESCRIBED[page](of_app)
    components: Json = {
        "schemas": {**SCHEMAS, **described_types.definitions},
        "responses": objects.answers(of_app),
        "parameters": PARAMETERS,
        "headers": HEADERS,
    }
    if of_app.guarded:
        components["securitySchemes"] = {BEARER: {"type": "http", "scheme": "bearer"}}
    whole: Json = {
        "openapi": "3.1.0",
        "info": {"title": config.name, "version": "", "description": _ABOUT if kinds else _BEHIND},
        "tags": [*objects.tags(kinds), {"name": TAG, "description": "The server's own pages."}],
        "paths": paths,
        "components": components,
    }
    whole["info"]["version"] = sha256(msgspec.json.encode(whole)).hexdigest()[:12]
    return whole
