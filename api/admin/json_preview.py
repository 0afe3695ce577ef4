"""Stored values as JSON shows them: plain JSON as itself, all else as an object with one `$` name that says what it is.

It is for who looks, not for who reads back: a dict of a user's that has such a name looks the same.
"""

from __future__ import annotations

import base64
import math
import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any


def json_preview(value: Any) -> Any:
    """What `json.dumps` takes for a value that was stored."""
    kind = type(value)
    if kind is dict:
        if all(type(key) is str for key in value):
            return {key: json_preview(each) for key, each in value.items()}
        return {"$dict": [[json_preview(key), json_preview(each)] for key, each in value.items()]}
    if kind is list:
        return [json_preview(each) for each in value]
    if kind is tuple or kind is set:
        return {f"${kind.__name__}": [json_preview(each) for each in value]}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is datetime:
        return {"$datetime": value.isoformat()}
    if kind is Decimal or kind is uuid.UUID or (kind is float and not math.isfinite(value)):
        return {f"${kind.__name__.lower()}": str(value)}
    return value
