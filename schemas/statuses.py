"""HTTP statuses of errors: one table, for responses at the door and for the replies in `{app}.replies`.

Law: 503 means not done, send it again; 504 means the outcome is unknown; 507 means that the disk refused a
write.
"""

from __future__ import annotations

from perdure.schemas.errors import FetchFailed, FetchTimedOut, FetchTooLarge

BAD_BODY = "bad-body"  # the code of the Refusal that Request.json and Request.text raise
UPGRADE_REQUIRED = "upgrade-required"  # of the Refusal that accept_websocket raises
# perdure's own codes that keep their status when an object raises them
_OWN_STATUS = frozenset(
    (BAD_BODY, UPGRADE_REQUIRED, FetchFailed.code, FetchTimedOut.code, FetchTooLarge.code)
)
STATUS = {
    "bad-request": 400,
    "bad-key": 400,
    "bad-frame": 400,
    "malformed-command": 400,
    BAD_BODY: 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "origin-refused": 403,
    "host-refused": 403,
    "unknown-namespace": 404,
    "unknown-method": 404,
    "no-such-path": 404,
    "unknown-command": 404,
    "method-not-allowed": 405,
    "not-parked": 404,
    "key-in-flight": 409,
    "not-at-head": 409,
    "too-large": 413,
    "invalid-arguments": 422,
    "key-reused": 422,
    UPGRADE_REQUIRED: 426,
    "over-quota": 429,
    "fetch-failed": 502,
    "fetch-timed-out": 502,
    "fetch-too-large": 502,
    "not-exposed": 403,
    "worker-failed": 500,
    "internal-error": 500,
    "storage-failed": 507,
    "outcome-unknown": 504,
}
OF_OUTCOME = {"refused": 409, "failed": 500, "rejected": 400, "parked": 500}
UNAVAILABLE_STATUS = 503


def status_of(outcome: str, code: str) -> int:
    """The status of an error reply.

    An object's own code does not choose it, since 503, 504 and 507 are promises; perdure's codes do.
    """
    status = OF_OUTCOME.get(outcome, UNAVAILABLE_STATUS)
    if outcome in ("rejected", "unavailable") or code in _OWN_STATUS:
        return STATUS.get(code, status)
    return status
