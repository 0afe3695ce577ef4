"""Status lines of HTTP/1.1 responses, written once and then looked up.

Each response of this server begins with one of these. uvicorn has the same table, but inside its own
protocol; perdure needs nothing of it here.
"""

from __future__ import annotations

from http import HTTPStatus

_REASONS = {status.value: status.phrase for status in HTTPStatus}

# by status; a status without a registered reason has an empty one (RFC 9112 §4)
STATUS_LINES = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, "").encode()) for status in range(100, 600)
}
