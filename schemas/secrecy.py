"""What may be shown of texts that can hold credentials: URLs, and settings whose name says that they are secret.

Law: an error about a setting quotes its value only as `shown` leaves it.
"""

from __future__ import annotations

import re

MASK = "********"
SECRET_NAME = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
# up to the last @: a password may hold any of the separators
_USER = re.compile(r"(^|(?<=://))[^\s]*@")
_PARAMETERS = re.compile(r"([?&;][\w.-]+=)[^\s&;'\"]*")


def without_credentials(text: str) -> str:
    """The text of an address with all that stands before an `@`, and the values of its parameters, masked."""
    return _PARAMETERS.sub(rf"\1{MASK}", _USER.sub(f"{MASK}@", text))


def shown(name: str, value: object) -> str:
    """A setting's value as an error may quote it."""
    if SECRET_NAME.search(name):
        return MASK
    return repr(without_credentials(value) if isinstance(value, str) else value)
