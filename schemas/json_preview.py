"""Stored values as JSON, for display: JSON as itself, other types as an object with one `$` name for the
type.

It cannot be read back: a dict of an app that has such a name looks the same.
"""

from __future__ import annotations

import base64
import math
import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any


def json_preview(value: Any) -> Any:
    """A stored value in a form that `json.dumps` accepts."""
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
