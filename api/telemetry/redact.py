"""Keeps secrets out of log lines: secret values of the configuration, and text that looks like a secret.

Laws
- A value under a telling name (`token`, `password`, …) is masked, whatever it is. Within texts, credential
  headers, URL parameters, bearer tokens and JSON Web Tokens are masked. Masking too much costs a look at the
  code, masking too little a secret.
- A value of an unknown type is masked as the text that would be shown.

[test_logs.py]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from perdure.schemas.commands import NEVER_LOGGED
from perdure.schemas.config import Config
from perdure.schemas.masking import PATTERNS, TELLING
from perdure.schemas.replies import Pairs
from perdure.schemas.secrecy import MASK

_WORD = re.compile(r"[\w-]+")
_SHORTEST = 4  # characters: a shorter value occurs in half of all texts
_DEEPEST = 6


class Scrubber:
    """A filter of one app's log lines.

    `private` returns the credentials of the request that is being answered.
    """

    def __init__(self, config: Config, private: Callable[[], Iterable[str]] = tuple) -> None:
        self._private = private
        values = {*config.secret_values.values(), *config.kafka.secret_values, *_secret_values(config.vars)}
        longest_first = sorted((each for each in values if len(each) >= _SHORTEST), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def event(self, _: Any, __: str, event: Mapping[str, Any]) -> dict[str, Any]:
        """A processor of structlog: the event with its secrets masked."""
        return {name: self._shown(name, value, 0) for name, value in event.items()}

    def text(self, text: str) -> str:
        """The text with its secrets masked."""
        for private in self._private():
            text = text.replace(private, MASK)
        if self._known is not None:
            text = self._known.sub(MASK, text)
        for pattern, shown in PATTERNS:
            text = pattern.sub(shown, text)
        return text

    def _shown(self, name: object, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(name, str) and TELLING.search(name):
            return MASK
        if isinstance(value, (int, float)):
            return value if self._known is None or not self._known.fullmatch(str(value)) else MASK
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping) and depth < _DEEPEST:
            return {self.text(str(key)): self._shown(key, inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, (list, tuple)) and depth < _DEEPEST:
            # a header as a pair: its first part names the second
            named = _name(value[0]) if len(value) == 2 else None
            return [self._shown(named if at else None, each, depth + 1) for at, each in enumerate(value)]
        return self.text(repr(value))


def credentials_in(headers: Pairs) -> list[str]:
    """The credentials in a request's headers, whole and in the pieces in which code handles them."""
    credentials: list[str] = []
    for name, value in headers:
        if name in NEVER_LOGGED:
            pieces = (
                piece for part in value.split(";") for piece in (part.strip(), part.partition("=")[2].strip())
            )
            credentials += [value, value.partition(" ")[2], *pieces]
    return sorted({each for each in credentials if len(each) >= _SHORTEST}, key=len, reverse=True)


def _name(value: object) -> str | None:
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text if isinstance(text, str) and _WORD.fullmatch(text) else None


def _secret_values(table: Mapping[str, Any], is_secret: bool = False) -> set[str]:
    values: set[str] = set()
    for name, value in table.items():
        secret = is_secret or TELLING.search(name) is not None
        if isinstance(value, Mapping):
            values |= _secret_values(value, secret)
        elif isinstance(value, str) and secret:
            values.add(value)
    return values
