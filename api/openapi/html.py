"""The OpenAPI document as one HTML page: no scripts, nothing loaded from elsewhere, `curl` commands to copy.

These 230 lines stand in for the bundle of Redoc (1.1 MB of script) or Scalar (3.6 MB), which would need a CDN
or a copy in the wheel, and a policy that allows scripts on the origin where an app's own cookies may be.

Law: everything from the app (names, docstrings, schemas) is escaped text, and the header allows no script.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator, Mapping
from hashlib import sha256
from html import escape
from typing import Any

import msgspec

from perdure.api.openapi.parts import Json

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
nav a { margin-right: 1rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
section { border: 1px solid var(--line); border-radius: 6px; margin: 1rem 0; padding: 0 1rem 1rem; }
h3 { font: 600 1rem/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
h3 b { text-transform: uppercase; margin-right: .5rem; }
pre, code { font: .875rem/1.5 ui-monospace, monospace; background: var(--soft); border-radius: 4px; }
pre { padding: .5rem .75rem; overflow-x: auto; }
code { padding: .1rem .3rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .25rem .5rem .25rem 0; border-top: 1px solid var(--line); }
p, td { white-space: pre-line; }
summary { cursor: pointer; }
"""
_POLICY = (
    "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STYLE_HASH = base64.b64encode(sha256(_STYLE.encode()).digest()).decode()
HTML_HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _POLICY.format(_STYLE_HASH).encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_VERBS = ("get", "head", "post", "put", "patch", "delete", "options")
_DEEP = 3  # where an example that refers to itself ends


def html_of(document: Json, port: int) -> str:
    """The page. `port` is the one of its first command to copy; 0 if it is not known."""
    return "".join(_Page(document, port).parts())


class _Page:
    def __init__(self, document: Json, port: int) -> None:
        self.whole = document
        self.port = port or "PORT"
        self.guarded = "securitySchemes" in document["components"]

    def parts(self) -> Iterator[str]:
        info, tags = self.whole["info"], self.whole["tags"]
        yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
        yield f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
        yield f"<h1>{escape(info['title'])}</h1><p>{escape(info['description'])}</p>"
        yield f'<p><a href="/openapi.json">openapi.json</a>, version {escape(info["version"])}</p><nav>'
        for tag in tags:
            yield f'<a href="#{escape(tag["name"])}">{escape(tag["name"])}</a>'
        yield "</nav><p>The commands below need these variables:</p>"
        setting = f"PERDURE=http://127.0.0.1:{self.port}"
        yield f"<pre>{setting}{' TOKEN=pdr_…' if self.guarded else ''}</pre>"
        for tag in tags:
            yield f'<h2 id="{escape(tag["name"])}">{escape(tag["name"])}</h2>'
            if text := tag.get("description"):
                yield f"<p>{escape(text)}</p>"
            for path, item in self.whole["paths"].items():
                if any(item[verb]["tags"] == [tag["name"]] for verb in _VERBS if verb in item):
                    yield from self._path(path, item)
        yield "</body></html>"

    def _path(self, path: str, item: Json) -> Iterator[str]:
        """One section for all methods of a path, which differ in nothing else."""
        verbs = [verb for verb in _VERBS if verb in item]
        verb = "post" if "post" in item else verbs[0]
        operation = item[verb]
        yield f"<section><h3><b>{' '.join(verbs)}</b>{escape(path)}</h3>"
        for text in (operation.get("summary"), operation.get("description")):
            if text:
                yield f"<p>{escape(text)}</p>"
        yield f"<pre>{escape(self._curl(verb, path, operation))}</pre>"
        body = self._json_in(operation.get("requestBody"))
        yield from _details("Arguments", self._arguments(body) if body else ())
        success = operation["responses"].get("200", {})
        if (schema := self._json_in(success)) is not None:
            yield f"<p>Answers {_type(schema.get('properties', {}).get('result', schema))}</p>"
        rows = [(name, self._resolved(each)) for name, each in operation["responses"].items()]
        cells = [f"<tr><th>{name}</th><td>{escape(each['description'])}</td></tr>" for name, each in rows]
        yield from _details("Answers", ("<table>", *cells, "</table>"))
        parameters = [
            self._resolved(each) for each in (*item.get("parameters", ()), *operation.get("parameters", ()))
        ]
        cells = [
            f"<tr><th>{escape(each['name'])}</th><td>{each['in']}</td>"
            f"<td>{escape(each.get('description', ''))}</td></tr>"
            for each in parameters
        ]
        yield from _details("Parameters", ("<table>", *cells, "</table>") if cells else ())
        if body:
            yield from _details("Schema", (f"<pre>{escape(_indented(body))}</pre>",))
        yield "</section>"

    def _arguments(self, body: Json) -> Iterator[str]:
        yield "<table>"
        for name, schema, needed in _parameters(body):
            default = f" = {_short(schema['default'])}" if "default" in schema else ""
            word = "required" if needed else "optional"
            text = escape(str(self._resolved(schema).get("description", schema.get("description", ""))))
            yield f"<tr><th>{escape(name)}</th><td>{_type(schema)}{escape(default)}</td><td>{word}</td><td>{text}</td></tr>"
        yield "</table>"

    def _curl(self, verb: str, path: str, operation: Json) -> str:
        shown = path.replace("{name}", "NAME").replace("{path}", "PATH").replace("{id}", "ID")
        line = [f'curl -X {verb.upper()} "$PERDURE{shown}"' if verb != "get" else f'curl "$PERDURE{shown}"']
        if self.guarded and operation.get("security"):
            line.append('-H "Authorization: Bearer $TOKEN"')
        body = self._json_in(operation.get("requestBody"))
        if body is not None:
            line.append(f"-d {shlex.quote(_short(self._example_body(body)))}")
        return " \\\n  ".join(line)

    def _example_body(self, body: Json) -> Any:
        if "anyOf" not in body and "args" not in body.get("properties", {}):
            return self._example(body)
        named = {name: self._example(schema) for name, schema, needed in _parameters(body) if needed}
        if not named:
            return {}
        shape = body.get("anyOf", [body])[-1]
        by_position = [each.get("title") for each in shape["properties"]["args"].get("prefixItems", ())]
        if list(named) == by_position[: len(named)]:
            return {"args": list(named.values())}
        return {"kwargs": named}

    def _example(self, schema: Any, depth: int = 0) -> Any:
        """A value that may fit the schema."""
        if not isinstance(schema, dict) or depth > _DEEP:
            return None
        schema = self._resolved(schema)
        for key in ("default", "const"):
            if key in schema:
                return schema[key]
        for key in ("examples", "enum"):
            if schema.get(key):
                return schema[key][0]
        for key in ("anyOf", "oneOf", "allOf"):
            if schema.get(key):
                return self._example(schema[key][0], depth + 1)
        if schema.get("type") == "object":
            wanted, properties = schema.get("required", ()), schema.get("properties", {})
            return {name: self._example(properties.get(name), depth + 1) for name in wanted}
        plain = {"integer": 1, "number": 1.5, "string": "text", "boolean": True, "array": []}
        return plain.get(str(schema.get("type")))

    def _resolved(self, schema: Json) -> Json:
        while isinstance(at := schema.get("$ref"), str):
            _, _, kind, name = at.split("/")
            schema = self.whole["components"][kind][name]
        return schema

    def _json_in(self, content_of: Json | None) -> Json | None:
        content = self._resolved(content_of or {}).get("content", {})
        schema: Json | None = content.get("application/json", {}).get("schema")
        return schema


def _parameters(body: Json) -> Iterator[tuple[str, Json, bool]]:
    """The parameters of a call in order: name, schema, and True if it is required."""
    shapes = body.get("anyOf", [body])
    by_name, by_position = shapes[0]["properties"], shapes[-1]["properties"]
    if "args" not in by_position:
        required = body.get("required", ())
        yield from ((name, schema, name in required) for name, schema in by_position.items())
        return
    least = shapes[0]["properties"]["args"].get("minItems", 0)
    required = by_name["kwargs"].get("required", ())
    ordered = by_position["args"].get("prefixItems", ())
    for number, schema in enumerate(ordered):
        name = schema.get("title", str(number))
        yield name, schema, number < least or name in required
    if isinstance(further := by_position["args"].get("items"), Mapping):
        yield "*args", dict(further), False
    for name, schema in by_position["kwargs"]["properties"].items():
        yield name, schema, name in required
    further = by_position["kwargs"].get("additionalProperties", {})
    if isinstance(further, Mapping):
        yield "**kwargs", dict(further), False


def _details(title: str, parts: Any) -> Iterator[str]:
    if inner := list(parts):
        yield f"<details><summary>{title}</summary>"
        yield from inner
        yield "</details>"


def _type(schema: Any) -> str:
    return f"<code>{escape(_words(schema))}</code>"


def _words(schema: Any) -> str:
    """A schema in a few words."""
    if not isinstance(schema, dict) or not schema:
        return "anything"
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return _short(schema["const"])
    if "enum" in schema:
        return " | ".join(_short(each) for each in schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(_words(each) for each in schema[key])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"[{_words(schema.get('items'))}]"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"{{name: {_words(schema['additionalProperties'])}}}"
    words = " | ".join(kind) if isinstance(kind, list) else str(kind)
    return f"{words} ({schema['format']})" if "format" in schema else words


def _short(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _indented(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
