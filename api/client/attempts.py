"""One logical call as a series of attempts: what an attempt means, and whether another follows.

`attempts` is a generator without I/O, clock or randomness of its own. It yields the next step (`Attempt`,
`Wait`); the async and the sync driver in `app.py` carry it out and send back the outcome.

Laws
- Both styles use this one logic.
- Every attempt carries the call's idempotency key, so that an attempt with an unknown outcome may be
  repeated.
- An answer that names its command is final, unless it means "not done" (503) or "not known" (504).
- Once an attempt may have taken effect, the call ends with such an answer or as `OutcomeUnknown`, never as
  "not done".
- A pause that would end after the deadline is not made.

[test_client.py]
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

from perdure.api.client.answers import COMMAND, RawResponse, code_of, error_of
from perdure.schemas.errors import KeyConflict, OutcomeUnknown, PerdureError, Unavailable, Unreachable

FIRST_S = 0.1
LONGEST_S = 5.0
ATTEMPT_S = 40.0  # where another may follow; longer than the server's own deadline, whose error says more


class Attempt(NamedTuple):
    """A step: make an attempt of at most `timeout_s`, and send back its `RawResponse` or `Lost`."""

    timeout_s: float


class Wait(NamedTuple):
    """A step: pause before the next attempt."""

    seconds: float


class Lost(NamedTuple):
    """An attempt without an answer. `sent`: the request may have arrived."""

    sent: bool
    why: str


class Policy(NamedTuple):
    """The timeout of a call and whether it is retried.

    `now` returns seconds, `chance` a number from 0 to 1.
    """

    timeout_s: float
    now: Callable[[], float]
    chance: Callable[[], float]
    retry: bool = True


Attempts = Generator[Attempt | Wait, RawResponse | Lost | None, RawResponse]


def pause_s(number: int, chance: float) -> float:
    """Seconds to wait after attempt `number` (from 0): exponential back-off with full jitter."""
    return chance * min(LONGEST_S, FIRST_S * (1 << min(number, 16)))


def attempts(call: str, policy: Policy) -> Attempts:
    """The steps of a call; the generator returns the answer.

    call: names the call in errors.
    policy: its timeout and retries.

    Raises a `PerdureError` if the call ended without a result. A driver need not know what an answer means.
    """
    until_s = policy.now() + policy.timeout_s
    longest_s = ATTEMPT_S if policy.retry else policy.timeout_s
    unknown = False
    number = 0
    while True:
        outcome = yield Attempt(min(max(until_s - policy.now(), 0.001), longest_s))
        assert outcome is not None
        error, again = _error_and_retry(call, outcome)
        unknown = unknown or _may_be_done(outcome)
        if error is None:
            assert isinstance(outcome, RawResponse)
            return outcome
        if not again:
            final = isinstance(outcome, RawResponse) and COMMAND in outcome.headers
            raise _unknown(call, error) if unknown and not final else error
        wait_s = pause_s(number, policy.chance()) + _retry_after_s(outcome)
        if not policy.retry or policy.now() + wait_s >= until_s:
            if unknown:
                raise _unknown(call, error) from error
            raise error
        yield Wait(wait_s)
        number += 1


def _error_and_retry(call: str, outcome: RawResponse | Lost) -> tuple[PerdureError | None, bool]:
    """The error of an attempt, and whether another attempt may succeed."""
    if isinstance(outcome, Lost):
        return (Unavailable if outcome.sent else Unreachable)(f"{call}: {outcome.why}"), True
    error = error_of(outcome)
    if error is None:
        return None, False
    code = code_of(outcome)
    in_flight = outcome.status == 409 and code == KeyConflict.code
    foreign = code is None and outcome.status == 502  # from a proxy; perdure's own has a code
    return error, outcome.status in (429, 503, 504) or in_flight or foreign


def _may_be_done(outcome: RawResponse | Lost) -> bool:
    if isinstance(outcome, Lost):
        return outcome.sent
    code = code_of(outcome)
    if outcome.status == 409:
        return code == KeyConflict.code
    if error_of(outcome) is None:
        return False
    return outcome.status == 504 or (outcome.status == 502 and code is None)


def _unknown(call: str, error: PerdureError) -> PerdureError:
    if isinstance(error, OutcomeUnknown) and call in str(error):
        return error
    return OutcomeUnknown(
        f"{call}: it may have taken effect; look at the object, or repeat it with the same key ({error})"
    )


def _retry_after_s(outcome: RawResponse | Lost) -> float:
    """The seconds of `Retry-After`, or 0 if it has none."""
    seconds = outcome.headers.get("retry-after", "") if isinstance(outcome, RawResponse) else ""
    return float(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 9 else 0.0
