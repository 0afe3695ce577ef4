"""`list` and `items`: the range of names that their options mean, and the page or values of its rows.

Laws
- Names come in the order of their UTF-8 bytes. `start` is inclusive, `start_after` and `end` are exclusive,
  also in reverse.
- Expired values are left out. perdure's own names, which begin with NUL, lie below every range.
- A page reads the rows that it shows and one more: the cost does not grow with the state. [test_listing.py]
- A cursor is ASCII that needs no quoting in a URL; with the options of the page that gave it, it goes on
  behind it.
"""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from perdure.objects.expiration import seconds
from perdure.schemas.errors import ObjectError
from perdure.schemas.expiry import EXT_32, FIRST_NAME, expiry_of, is_due
from perdure.schemas.values import decode_value

MAX_LISTED = 1000  # names on one page of list(), unless limit= says less

Rows = Generator[tuple[str, bytes], None, None]


@dataclass(frozen=True, slots=True)
class ListedKey:
    """One name of a `Listing`.

    Attributes:
        name: the name.
        expiration: when its value expires, in seconds since 1970; None if it does not.
    """

    name: str
    expiration: float | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of names, which `State.list` returns.

    Attributes:
        keys: the names, each a `ListedKey` with `name` and `expiration`.
        list_complete: True if there is no further page.
        cursor: what to pass to the next `list` for the next page; None if there is none.
    """

    keys: list[ListedKey] = field(default_factory=list)
    list_complete: bool = True
    cursor: str | None = None


def bounds(
    prefix: str,
    start: str | None,
    start_after: str | None,
    end: str | None,
    cursor: str | None,
    *,
    reverse: bool,
) -> tuple[str, str | None]:
    """The names that the options mean: from the first (inclusive) to the last (exclusive, None = no end).

    prefix: only names that begin with it; empty for all.
    start, start_after: only names from this one on, or behind this one; None for no bound.
    end: only names before this one; None for no bound.
    cursor: where the previous page ended; None for the first page.
    reverse: the page is read from its last name, so a cursor bounds it from above.

    Raises TypeError for an option that is not a str, ObjectError for `start` with `start_after`, ValueError
    for a text that is not a cursor.
    """
    for option, given in (("start", start), ("start_after", start_after), ("end", end), ("cursor", cursor)):
        if given is not None and not isinstance(given, str):
            raise TypeError(f"{option} is a str, not {type(given).__name__}")
    if not isinstance(prefix, str):
        raise TypeError(f"prefix is a str, not {type(prefix).__name__}")
    if start is not None and start_after is not None:
        raise ObjectError("list takes start or start_after, not both")
    low, high = max(prefix, FIRST_NAME), prefix_end(prefix)
    after = start_after + "\0" if start_after is not None else start
    if after is not None:
        low = max(low, after)
    if end is not None:
        high = end if high is None else min(high, end)
    if cursor:
        name = _name_of(cursor)
        if reverse:
            high = name if high is None else min(high, name)
        else:
            low = max(low, name + "\0")
    return low, high


def prefix_end(prefix: str) -> str | None:
    """The smallest str greater than all that begin with `prefix`; None if there is none."""
    for at in range(len(prefix) - 1, -1, -1):
        if ord(prefix[at]) < 0x10FFFF:
            following = ord(prefix[at]) + 1
            return prefix[:at] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)
    return None


def checked_limit(limit: int) -> int:
    """`limit` if it can be one. Raises TypeError or ValueError."""
    if type(limit) is not int:
        raise TypeError(f"limit is an int, not {type(limit).__name__}")
    if limit < 1:
        raise ValueError(f"list takes a limit of at least 1, not {limit}")
    return limit


def page_of(rows: Rows, limit: int, now_ms: int) -> Listing:
    """The page of at most `limit` names that `rows` begin with."""
    keys: list[ListedKey] = []
    with closing(rows):
        for name, encoded in rows:
            expires_ms = expiry_of(encoded)
            if expires_ms is not None and expires_ms <= now_ms:
                continue
            if len(keys) == limit:
                return Listing(keys, False, cursor_behind(keys[-1].name))
            keys.append(ListedKey(name, None if expires_ms is None else seconds(expires_ms)))
    return Listing(keys)


def values_of(rows: Rows, limit: int | None, now_ms: int) -> dict[str, Any]:
    """The names and values, at most `limit`, that `rows` begin with."""
    values: dict[str, Any] = {}
    with closing(rows):
        for name, encoded in rows:
            if encoded[0] == EXT_32 and is_due(encoded, now_ms):
                continue
            values[name] = decode_value(encoded)
            if len(values) == limit:
                break
    return values


def cursor_behind(name: str) -> str:
    """The cursor that goes on behind `name`."""
    return urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _name_of(cursor: str) -> str:
    try:
        return b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise ValueError(f"{cursor[:60]!r} is not a cursor that list returned") from error
