"""One logical call as attempts: what came of one, and whether there is another. No I/O, no clock and no chance of its own.

Laws
- `attempts` says what to do next (`Ask`, `Wait`); who drives it does that, in whatever style. There is one logic for all.
- Every attempt has the call's idempotency key; that is why one whose outcome is unknown may be made again.
- An answer that names its command is final, unless it says "not done" (503) or "not known" (504).
- Once an attempt may have been done, the call ends with such an answer or as `OutcomeUnknown`, never as "not done".
- Nothing is waited for that cannot come before the deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

from perdure.api.client.answers import COMMAND, RawResponse, code_of, error_of
from perdure.schemas.errors import KeyConflict, OutcomeUnknown, PerdureError, Unavailable

FIRST_S = 0.1
LONGEST_S = 5.0
ATTEMPT_S = 40.0  # where there is another; over the server's own deadline, which should speak first


class Ask(NamedTuple):
    """Make an attempt; send back its `RawResponse`, or `Lost`."""

    timeout_s: float


class Wait(NamedTuple):
    seconds: float


class Lost(NamedTuple):
    """No answer came. `sent`: the request may have arrived."""

    sent: bool
    why: str


class Unreachable(Unavailable):
    """No attempt of a call reached a server, so nothing was done. Check the URL, and that a server runs there.

    Raised by the client only, with the code `unavailable`.
    """


class Policy(NamedTuple):
    """How long a call may take and how it is spread; `now` in seconds, `chance` from 0 to 1."""

    timeout_s: float
    now: Callable[[], float]
    chance: Callable[[], float]
    retry: bool = True


Attempts = Generator[Ask | Wait, RawResponse | Lost | None, RawResponse]


def pause_s(number: int, chance: float) -> float:
    """Exponential, with full jitter: how long to wait after attempt `number` (from 0)."""
    return chance * min(LONGEST_S, FIRST_S * (1 << min(number, 16)))


def attempts(call: str, policy: Policy) -> Attempts:
    """The steps of a call; returns its answer. `call` names it in what is raised (a `PerdureError`).

    A driver of it never has to know what an answer means.
    """
    until_s = policy.now() + policy.timeout_s
    longest_s = ATTEMPT_S if policy.retry else policy.timeout_s
    unknown = False
    number = 0
    while True:
        came = yield Ask(min(max(until_s - policy.now(), 0.001), longest_s))
        assert came is not None
        error, again = _judged(call, came)
        unknown = unknown or _may_be_done(came)
        if error is None:
            assert isinstance(came, RawResponse)
            return came
        if not again:
            final = isinstance(came, RawResponse) and COMMAND in came.headers
            raise _unknown(call, error) if unknown and not final else error
        wait_s = pause_s(number, policy.chance()) + _asked_for_s(came)
        if not policy.retry or policy.now() + wait_s >= until_s:
            if unknown:
                raise _unknown(call, error) from error
            raise error
        yield Wait(wait_s)
        number += 1


def _judged(call: str, came: RawResponse | Lost) -> tuple[PerdureError | None, bool]:
    """The error of an attempt, and whether another may mend it."""
    if isinstance(came, Lost):
        return (Unavailable if came.sent else Unreachable)(f"{call}: {came.why}"), True
    error = error_of(came)
    if error is None:
        return None, False
    code = code_of(came)
    in_flight = came.status == 409 and code == KeyConflict.code
    foreign = code is None and came.status == 502  # a proxy's; perdure's own 502 is an object's fetch
    return error, came.status in (429, 503, 504) or in_flight or foreign


def _may_be_done(came: RawResponse | Lost) -> bool:
    if isinstance(came, Lost):
        return came.sent
    code = code_of(came)
    if came.status == 409:
        return code == KeyConflict.code
    if error_of(came) is None:
        return False
    return came.status == 504 or (came.status == 502 and code is None)


def _unknown(call: str, error: PerdureError) -> PerdureError:
    if isinstance(error, OutcomeUnknown) and call in str(error):
        return error
    return OutcomeUnknown(
        f"{call}: it may have been done; look at the object, or ask again with the same key ({error})"
    )


def _asked_for_s(came: RawResponse | Lost) -> float:
    """`Retry-After`, if it is in seconds."""
    told = came.headers.get("retry-after", "") if isinstance(came, RawResponse) else ""
    return float(told) if told.isascii() and told.isdigit() and len(told) < 9 else 0.0
