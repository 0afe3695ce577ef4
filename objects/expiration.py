"""Expiration: when a value that is put with `expiration` or `expiration_ttl` expires.

Laws
- Users give seconds, as on Cloudflare KV; inside, times are ms since 1970.
- The clock is the command's log time, so a turn that runs again gets the same expiration. [test_expiry.py]
- A time that has passed is refused, as Cloudflare KV does; its least lifetime of 60 s does not apply.
"""

from __future__ import annotations

import math

from perdure.schemas.errors import ObjectError

_YEAR_10000_MS = 253_402_300_800_000


def expires_at(now_ms: int, expiration: float | None, expiration_ttl: float | None) -> int:
    """When the value expires, in ms since 1970; `expiration` or `expiration_ttl` is given, in seconds.

    Raises ObjectError if both are given, TypeError for a value that is not a number, ValueError for a time
    that is not after now, or is after the year 9999 (as ms given in place of seconds would be).
    """
    if expiration is not None and expiration_ttl is not None:
        raise ObjectError("put takes expiration or expiration_ttl, not both")
    if expiration is not None:
        expires_ms = _ms("expiration", expiration)
        if expires_ms <= now_ms:
            raise ValueError(
                f"expiration={expiration!r} has passed: it is the second since 1970 at which the value "
                f"expires, and now is {seconds(now_ms)}"
            )
    else:
        assert expiration_ttl is not None
        ttl_ms = _ms("expiration_ttl", expiration_ttl)
        if expiration_ttl <= 0:
            raise ValueError(f"expiration_ttl={expiration_ttl!r}: it is a number of seconds above 0")
        expires_ms = now_ms + max(ttl_ms, 1)
    if expires_ms >= _YEAR_10000_MS:
        raise ValueError("the value would expire after the year 9999: times are in seconds, not milliseconds")
    return expires_ms


def _ms(option: str, seconds: float) -> int:
    if type(seconds) not in (int, float):
        raise TypeError(f"{option} is an int or float, in seconds, not {type(seconds).__name__}")
    if not math.isfinite(seconds):
        raise ValueError(f"{option}={seconds!r} is not a time")
    return round(seconds * 1000)


def seconds(ms: int) -> float:
    """Seconds from ms: an int where it is a whole number."""
    whole, rest = divmod(ms, 1000)
    return ms / 1000 if rest else whole
