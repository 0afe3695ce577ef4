"""The JSON of bodies: of an object's responses and of the requests that it sends.

Laws
- A number that JSON does not have (NaN, an infinity) is an error, wherever in the value it is: a null would
  reach the client with another meaning. A model's own floats are the texts that its annotations read.
  [test_results.py]
- Only JSON with a null in it may hide such a number, and is checked; all other values cost a search for a few
  bytes.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic_core import to_json

from perdure.objects.codec import encode_json as encode_any


def encode_json(value: Any) -> bytes:
    """As `encode_json` of the codec, and faster for JSON's own types; bytes are
    base64 in the standard alphabet.

    Raises `ValueError`, or TypeError for what cannot be written as JSON.
    """
    text = _encode(value)
    if text.find(b"null") >= 0:  # `in` would first make an error, and cost as much as the encoding
        plain = msgspec.to_builtins(value, enc_hook=_nothing)
        again = to_json(plain, inf_nan_mode="constants")
        if b"NaN" in again or b"Infinity" in again:  # or only a text that has the word
            _check_plain(plain)
    return text


def _of_model(value: Any) -> msgspec.Raw:
    """A value that msgspec does not know, as pydantic writes it."""
    if isinstance(value, BaseModel):
        return msgspec.Raw(encode_any(value))
    raise TypeError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be written as JSON")


_encode = msgspec.json.Encoder(enc_hook=_of_model).encode


def _nothing(_: object) -> None:
    """Replace a value that msgspec writes unchanged: it is JSON already."""


def _check_plain(plain: Any) -> None:
    try:
        json.dumps(plain, allow_nan=False)
    except ValueError:
        raise ValueError(
            "it has the number NaN or an infinity, which JSON cannot express: return None or a text for it"
        ) from None
