"""What an object's state can hold, and how it lies on the log and in the store.

Laws
- None, bool, int of any size, float, str, bytes, datetime, Decimal, UUID, list, tuple, set, dict come
  back as what they were, equal and of the same type. Anything else, subclasses too, is refused loudly.
- Encoding equal values of the same build gives equal bytes (sets are sorted by their encoding).
- Decoding makes new objects each time: values are copies.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from perdure.schemas.errors import UnstorableValue
from perdure.schemas.expiry import EXPIRING, TIME_BYTES

_SECOND = timedelta(seconds=1)
_CONTAINERS = frozenset((list, tuple, set, dict))
_KEY, _MEMBER = object(), object()
_KEY_CHARS = 60  # shown of a key on the way to what cannot be stored
MAX_DEPTH = 64  # deeper nesting is refused: decoding recurses

_BIG_INT, _DATETIME, _DECIMAL, _UUID, _TUPLE, _SET, _PAIRS = range(1, 8)  # EXPIRING is 8
SEALED = 9  # a value under the key of a subject: the key's id (16 bytes), a nonce (12), AES-GCM's ciphertext
_PLAIN = frozenset((type(None), bool, float, str, bytes))
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1

_encoder = msgspec.msgpack.Encoder()
_encode = _encoder.encode


def encode_value(name: str, value: Any) -> bytes:
    """The stored form of `value`, msgpack with extensions; `name` is the key it is put under.

    Raises `UnstorableValue` (a TypeError) naming the key, where inside its value, and the type that cannot be
    stored.
    """
    kind = type(value)
    try:
        if kind in _PLAIN or (kind is int and _INT64_MIN <= value <= _UINT64_MAX):
            return _encode(value)
        return _encode(_lower(value, 0))
    except UnicodeEncodeError as error:
        problem = "a str with lone surrogates cannot be stored"
        raise UnstorableValue(f"state[{name!r}]{_place(value)}: {problem}") from error
    except _Unfit as error:
        raise UnstorableValue(f"state[{name!r}]{_place(value)}: {error}") from None
    except _TooDeep:
        raise UnstorableValue(f"state[{name!r}]: nested deeper than {MAX_DEPTH}, or a cycle") from None


class _Unfit(Exception):
    """A value of a type that cannot be stored."""


class _TooDeep(Exception):
    """More than `MAX_DEPTH` values, one inside the other."""


def _lower(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        if _INT64_MIN <= value <= _UINT64_MAX:
            return value
        return _ext(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if depth >= MAX_DEPTH:
        raise _TooDeep
    if kind is list:
        return [_lower(item, depth + 1) for item in value]
    if kind is dict:
        if all(type(key) is str for key in value):
            return {key: _lower(item, depth + 1) for key, item in value.items()}
        pairs = [[_lower(key, depth + 1), _lower(item, depth + 1)] for key, item in value.items()]
        return _ext(_PAIRS, _encode(pairs))
    if kind is tuple:
        return _ext(_TUPLE, _encode([_lower(item, depth + 1) for item in value]))
    if kind is set:
        items = sorted(_encode(_lower(item, depth + 1)) for item in value)
        return _ext(_SET, _encode([msgspec.Raw(item) for item in items]))
    if kind is datetime:
        if (offset := value.utcoffset()) and abs(offset) < _SECOND:  # `fromisoformat` would take it for none
            raise _Unfit(
                "a datetime whose UTC offset is below one second cannot be stored; use astimezone(UTC)"
            )
        return _ext(_DATETIME, value.isoformat().encode())
    if kind is Decimal:
        return _ext(_DECIMAL, str(value).encode())
    if kind is uuid.UUID:
        return _ext(_UUID, value.bytes)
    raise _Unfit(
        f"a {kind.__module__}.{kind.__qualname__} cannot be stored; use None, bool, int, float, "
        "str, bytes, datetime, Decimal, UUID, list, tuple, set or dict (a model: put its dict)"
    )


def _place(value: Any) -> str:
    """Where inside `value` the first lies that cannot be stored, as one would write it: `['items'][3]`."""
    return _way(value, 0) or ""


def _way(value: Any, depth: int) -> str | None:
    """From `value` to the first in it that cannot be stored; None: all can. Each is looked at once."""
    kind = type(value)
    if kind not in _CONTAINERS:
        return None if _fits(value) else ""
    if depth < MAX_DEPTH:
        for step, inner in _inside(value):
            if (way := _way(inner, depth + 1)) is not None:
                return _shown(step) + way
    return None


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    if type(value) is dict:
        for key, item in value.items():
            yield _KEY, key
            yield key, item
    elif type(value) is set:
        yield from ((_MEMBER, item) for item in value)
    else:
        yield from enumerate(value)


def _shown(step: Any) -> str:
    if step is _KEY or step is _MEMBER:
        return "[a key]" if step is _KEY else "[a member]"
    if type(step) not in (str, int):
        return "[…]"
    try:
        return f"[{repr(step)[:_KEY_CHARS]}]"
    except ValueError:  # an int with more digits than Python writes
        return "[…]"


def _fits(value: Any) -> bool:
    try:
        _encode(_lower(value, 0))
    except (_Unfit, UnicodeEncodeError):
        return False
    return True


def _ext(code: int, data: bytes) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, data)


def _raise_ext(code: int, data: memoryview) -> Any:
    raw = bytes(data)
    if code == _BIG_INT:
        return int.from_bytes(raw, "big", signed=True)
    if code == _DATETIME:
        return datetime.fromisoformat(raw.decode())
    if code == _DECIMAL:
        return Decimal(raw.decode())
    if code == _UUID:
        return uuid.UUID(bytes=raw)
    if code == _TUPLE:
        return tuple(_decode(raw))
    if code == _SET:
        return set(_decode(raw))
    if code == _PAIRS:
        return dict(_decode(raw))
    if code == EXPIRING:
        return _decode(raw[TIME_BYTES:])
    if code == SEALED:
        raise ValueError(
            "the value is sealed under the key of a subject; this version of perdure cannot open it"
        )
    raise ValueError(f"extension {code} of a newer format")


_decoder = msgspec.msgpack.Decoder(ext_hook=_raise_ext)
_decode = _decoder.decode


decode_value: Callable[[bytes], Any] = _decode
"""The value that `encode_value` stored, as a new object; of an expiring one what it wraps. A name of the
decoder's own method: a function around it would cost each `get` a call."""
