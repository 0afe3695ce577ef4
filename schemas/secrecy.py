"""What may be shown of texts that can hold credentials: URLs, and settings whose name says that they are
secret.

Law: an error about a setting quotes its value only as `shown` leaves it.
"""

from __future__ import annotations

import re

MASK = "********"
SECRET_NAME = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
_SCHEME = re.compile(r"\s*[A-Za-z][\w+.-]*://")
_PARAMETERS = re.compile(r"[?;&#]")
_NAMED = re.compile(r"[\w.-]+=")


def without_credentials(text: str) -> str:
    """The text of an address with the user before its `@`, and the values of its parameters, masked.

    A password may hold any of the separators, and an address may be mistyped: what can belong to either is
    masked.
    """
    match = _SCHEME.match(text)
    scheme = match[0] if match else ""
    user, at, rest = text[len(scheme) :].rpartition("@")
    if at and _PARAMETERS.search(user):
        return f"{scheme}{MASK}"
    address, *parameters = _PARAMETERS.split(rest, maxsplit=1)
    shown_ = f"{scheme}{MASK}@{address}" if at else f"{scheme}{address}"
    if not parameters:
        return shown_
    separator, named = rest[len(address)], _NAMED.match(parameters[0])
    name = named[0] if named and separator != "#" else ""
    return f"{shown_}{separator}{name}{MASK}"  # one that follows may be a piece of the first one's value


def shown(name: str, value: object) -> str:
    """A setting's value as an error may quote it."""
    if SECRET_NAME.search(name):
        return MASK
    return repr(without_credentials(value) if isinstance(value, str) else value)
