"""Masking: keeps secrets out of what perdure shows, by the names of values and by patterns in texts.

Log lines (api/telemetry/redact.py) and records of the log that are shown to people (streams/audit/) use it.

Laws
- A value under a telling name (`token`, `password`, …) is masked, whatever it is. Within texts, credential
  headers, URL parameters, bearer tokens and JSON Web Tokens are masked. Masking too much costs a look at the
  code, masking too little a secret. [test_logs.py, test_audit.py]
"""

from __future__ import annotations

import re
from typing import Any

from perdure.schemas.access import TOKEN_PREFIX
from perdure.schemas.secrecy import MASK

_NAMES = "authorization|cookie|token|secret|passw|credential|ticket|api[-_]?key|private[-_]?key"
TELLING = re.compile(_NAMES, re.IGNORECASE)
PATTERNS = tuple(
    (re.compile(pattern, re.IGNORECASE), shown)
    for pattern, shown in (
        # a header, to the end of its line or of its quotes
        (r"((?:authorization|cookie)\b(?:\s*[:=]|[\"']\s*[:=,])\s*(?:b?[\"'])?)[^\"'\r\n]+", rf"\1{MASK}"),
        (rf"(\b[\w-]*(?:{_NAMES})[\w-]*(?:=|[\"']\s*[:=,]\s*(?:b?[\"'])?))[^\s&\"',;)}}]+", rf"\1{MASK}"),
        (r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", rf"\1 {MASK}"),
        (rf"\b{TOKEN_PREFIX}[\w-]+", MASK),
        (r"\beyJ[\w-]+\.[\w-]+\.[\w-]*", MASK),
        (r"(?<=://)[^/@\s]+(?=@)", MASK),
    )
)
# a text without any of these has nothing to mask: most texts are passed by one search
_SUSPECT = re.compile(rf"{_NAMES}|bearer|basic|{TOKEN_PREFIX}|eyJ|://", re.IGNORECASE)


def mask_text(text: str) -> str:
    """The text with what looks like a secret masked."""
    if _SUSPECT.search(text) is None:
        return text
    for pattern, shown in PATTERNS:
        text = pattern.sub(shown, text)
    return text


def mask_value(value: Any, name: str = "") -> Any:
    """A value as a decoder of JSON or of stored values made it, with its secrets masked.

    `name`: the key, argument or header that it stands under. Types that are not nested come back as they are.
    """
    if name and value is not None and TELLING.search(name):
        return MASK
    kind = type(value)
    if kind is str:
        return mask_text(value)
    if kind is dict:
        return {key: mask_value(each, key if type(key) is str else "") for key, each in value.items()}
    if kind in (list, tuple, set):
        return kind(mask_value(each) for each in value)
    return value
