"""Values without an annotation as JSON: what a method returned, or a response or a refusal's detail is made of.

Laws
- A number that JSON cannot say (NaN, an infinity) is an error, wherever in the value it stands: as null it would
  reach the caller as something else than was returned.
- Who has it written otherwise, as a text or by a serializer of their own, may.
- bytes are base64, whatever they hold.
- Only what JSON could hide such a number of is looked through, as it has a null: all others cost a search for a few bytes.
"""

from __future__ import annotations

import json
from collections import deque
from math import isfinite
from typing import Any, NoReturn

import msgspec
from pydantic import BaseModel
from pydantic_core import SchemaSerializer, core_schema, to_json

# models become dicts, numbers stay as they are
_as_python = SchemaSerializer(core_schema.any_schema()).to_python


def encode_result(result: Any) -> bytes:
    """The result as JSON. Raises `ValueError` or `PydanticSerializationError`."""
    text = to_json(result, inf_nan_mode="null", bytes_mode="base64", fallback=_of_struct)
    if result is not None and (b"null" in text or b"NaN" in text or b"Infinity" in text):
        _check(
            json.loads(text, parse_constant=_refuse),
            _as_python(result, by_alias=True, warnings=False, fallback=_of_struct),
        )
    return text


def encode_json(value: Any) -> bytes:
    """As `encode_result`, of what a response or request is made of: faster for JSON's own types.

    Raises `ValueError`, or TypeError for what cannot be written as JSON.
    """
    text = _encode_json(value)
    if b"null" in text:
        plain = msgspec.to_builtins(value, enc_hook=_nothing)
        again = to_json(plain, inf_nan_mode="constants")
        if b"NaN" in again or b"Infinity" in again:  # or only a text that has the word
            _check_plain(plain)
    return text


def _of_struct(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value, str_keys=True)
    raise TypeError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be written as JSON")


def _of_model(value: Any) -> msgspec.Raw:
    """What msgspec does not know, as pydantic writes it."""
    if isinstance(value, BaseModel):
        return msgspec.Raw(encode_result(value))
    raise TypeError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be written as JSON")


_encode_json = msgspec.json.Encoder(enc_hook=_of_model).encode


def _nothing(_: object) -> None:
    """In place of what msgspec writes as it is: it is JSON already."""


def _check_plain(plain: Any) -> None:
    try:
        json.dumps(plain, allow_nan=False)
    except ValueError:
        _refuse("NaN or an infinity")


def _check(written: Any, value: Any) -> None:
    """Walks both at once: a number for which null was written is none that JSON has."""
    if isinstance(value, float):
        if written is None and not isfinite(value):
            _refuse(repr(float(value)))
    elif isinstance(value, dict):
        if isinstance(written, dict) and len(written) == len(value):
            for one, other in zip(written.values(), value.values(), strict=True):
                _check(one, other)
    elif (
        isinstance(value, list | tuple | set | frozenset | deque)
        and isinstance(written, list)
        and len(written) == len(value)
    ):
        for one, other in zip(written, value, strict=True):
            _check(one, other)


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"it has the number {number}, which JSON cannot say: return None or a text for it")
