"""Alarms of an object: setting, reading and removing them, and what a run does to its alarm.

Laws
- Setting and removing belong to the turn. An alarm runs in a turn of its own, never before its time.
- An alarm that runs is removed for its own turn (one with a cron expression: set to its next time); what the
  turn sets stays. All of that is one entry with what the turn writes.
- A run that fails is made again after 2 s, then 4, 8, 16, 32 and 64; after that the alarm is parked: it stays
  and is listed, and does not run again until an operator redrives it. [test_alarms.py]
- A run that was not done (a call of it was unavailable, say) is continued: the next one is given the answers
  of the calls that were answered. After a run that failed, the next one makes its own calls.
  [test_alarms_again.py]
- What comes next is a pure function of the alarm's row and the turn's log time. When log time steps back,
  what it gave before is timed again (`retimed`). [test_alarms_retimed.py]
"""

from __future__ import annotations

import inspect
import math
from builtins import list as listing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from perdure.objects.names import ObjectId
from perdure.objects.overlay import Overlay, View
from perdure.objects.zones import zone as zone_of
from perdure.schemas.alarms import TTL
from perdure.schemas.cache import PureCache
from perdure.schemas.effects import AlarmChange, AlarmRow, alarm_row
from perdure.schemas.errors import ConfigError, ObjectError

DEFAULT = "default"
RETRIES = 6
FIRST_RETRY_MS = 2000
MAX_NAME_CHARS = 255
_YEAR_1973_MS = 100_000_000_000  # in seconds that is the year 5138
_YEAR_10000_MS = 253_402_300_800_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)

When = float | datetime | timedelta


@dataclass(frozen=True, slots=True)
class AlarmInfo:
    """The alarm that `alarm(self, info)` runs for.

    Attributes:
        name: the alarm's name; `default` if it was set without one.
        scheduled_ms: when it was due, in ms since 1970.
        retry_count: how often it has failed since it was set.
    """

    name: str
    scheduled_ms: int
    retry_count: int = 0

    @property
    def is_retry(self) -> bool:
        """True if the alarm has failed before."""
        return self.retry_count > 0


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that is set, as `State.alarms` lists it.

    Attributes:
        name: its name; `default` if it was set without one.
        due_ms: when it is due, in ms since 1970.
        cron: its cron expression, empty if it has none.
        zone: the time zone of the cron expression.
        failures: how often it has failed since it was set.
        parked: True if it failed its last retry and does not run again by itself.
    """

    name: str
    due_ms: int
    cron: str = ""
    zone: str = ""
    failures: int = 0
    parked: bool = False


# When


def due_at(when: When, now_ms: int) -> int:
    """`when` in ms since 1970, never before `now_ms`. Raises TypeError or
    ValueError for a value that is not a time.
    """
    if isinstance(when, timedelta):
        due_ms = now_ms - (-when // _MS)
    elif isinstance(when, datetime):
        if when.tzinfo is None:
            raise ValueError(
                f"set_alarm({when!r}) has no time zone: use datetime.now(UTC), or ms since 1970, or a timedelta"
            )
        due_ms = -((_EPOCH - when) // _MS)
    elif type(when) in (int, float):
        if not math.isfinite(when):
            raise ValueError(f"set_alarm({when!r}) is not a time")
        due_ms = math.ceil(when)
        if 0 < due_ms < _YEAR_1973_MS:
            raise ValueError(f"set_alarm({when!r}) is in 1970: times are in ms since 1970, not in seconds")
    else:
        raise TypeError(
            f"set_alarm takes ms since 1970, a datetime with a zone or a timedelta, not {type(when).__name__}"
        )
    if due_ms >= _YEAR_10000_MS:
        raise ValueError(f"set_alarm({when!r}) is after the year 9999: times are in ms since 1970")
    return max(due_ms, now_ms)


def next_due(cron: str, zone: str, after_ms: int) -> int:
    """The first time, in ms since 1970, after `after_ms` that a cron expression names. Raises ValueError."""
    if not isinstance(cron, str) or not isinstance(zone, str):
        raise TypeError("cron and zone are str")
    return _next_times[cron, zone, after_ms // 1000]


def _next_time(key: tuple[str, str, int]) -> int:
    from cronsim import CronSim, CronSimError  # few apps have a cron

    cron, zone, after_s = key
    after = (_EPOCH + after_s * timedelta(seconds=1)).astimezone(zone_of(zone))
    try:
        following = next(CronSim(cron, after))
    except CronSimError as error:
        raise ValueError(f"cron={cron!r}: {error}: five fields such as */5 * * * *") from error
    except StopIteration as error:
        raise ValueError(f"cron={cron!r} names no time in the next 50 years") from error
    return round(following.timestamp()) * 1000


_next_times = PureCache(_next_time, 1024)  # many objects have the same expression, and are due together


# After a run


def after_success(name: str, row: AlarmRow, now_ms: int) -> AlarmChange:
    """The alarm is removed, or set to its next time. Raises ValueError if its cron expression names none."""
    if not row.cron:
        return AlarmChange(name, None)
    return AlarmChange(name, next_due(row.cron, row.zone, max(now_ms, row.due_ms)), 0, row.cron, row.zone)


def after_failure(name: str, row: AlarmRow, now_ms: int, *, goes_on: bool = False) -> AlarmChange:
    """The change of an alarm whose run failed: it is postponed, or, after the last retry, parked.

    name: the alarm; the one that removes expired values is never parked.
    row: the alarm as it stood when it was due.
    now_ms: log time, in ms since 1970, from which the pause counts.
    goes_on: the run was not done, so the next one, whenever that is, continues with the answers of its calls.
    """
    failed, since = row.attempt + 1, row.series if goes_on else -1
    if row.attempt >= RETRIES and name != TTL:
        return AlarmChange(name, row.due_ms, failed, row.cron, row.zone, parked=True, since=since)
    return AlarmChange(name, _retry_at(failed, now_ms), failed, row.cron, row.zone, since=since)


def _retry_at(failed: int, now_ms: int) -> int:
    return now_ms + (FIRST_RETRY_MS << min(failed - 1, RETRIES - 1))


def retimed(name: str, row: AlarmRow, now_ms: int) -> AlarmChange | None:
    """The alarm with the due time that it would have been given at `now_ms`; None if that is not earlier.

    Only what perdure timed itself is timed again: the next time of a cron expression, and the next attempt
    after a failed one. A due time that the object gave stands.
    """
    if row.parked or not (row.attempt or row.cron):
        return None
    try:
        due_ms = _retry_at(row.attempt, now_ms) if row.attempt else next_due(row.cron, row.zone, now_ms)
    except ValueError:  # for example, its time zone is no longer known
        return None
    if due_ms >= row.due_ms:
        return None
    return AlarmChange(name, due_ms, row.attempt, row.cron, row.zone, since=row.series)


def redriven(name: str, row: AlarmRow, now_ms: int) -> AlarmChange:
    """A parked alarm, due again at once with all its retries."""
    return AlarmChange(name, now_ms, 0, row.cron, row.zone, since=row.since)


# The class

OnRing = Callable[[Any, AlarmInfo], Awaitable[Any]]


def alarm_of(cls: type) -> OnRing | None:
    """The alarm handler of `cls`; None if it defines no `alarm`. Raises `ConfigError` for an unusable one."""
    function: OnRing | None = getattr(cls, "alarm", None)
    if function is None:
        return None
    where = f"{cls.__qualname__}.alarm"
    if not inspect.iscoroutinefunction(function):
        raise ConfigError(f"{where} is called when an alarm is due: write `async def alarm(self, info)`")
    takes = list(inspect.signature(function).parameters.values())
    wrong = [each for each in takes[2:] if each.default is each.empty and each.kind not in _VARIADIC]
    if not takes or wrong or any(each.kind is each.KEYWORD_ONLY for each in takes[:2]):
        raise ConfigError(f"{where} takes an AlarmInfo or nothing: write `async def alarm(self, info)`")
    if len(takes) == 1 and takes[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        short = cast(Callable[[Any], Awaitable[Any]], function)
        return lambda instance, info: short(instance)
    return function


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


# The state


class AlarmMethods:
    """The part of `self.state` that sets, lists and removes alarms."""

    __slots__ = ()

    if TYPE_CHECKING:
        _view: View
        _now_ms: int

        @property
        def id(self) -> ObjectId: ...

        def inside(self) -> Overlay: ...

        def _writable(self) -> Overlay: ...

    async def set_alarm(
        self,
        when: When | None = None,
        *,
        name: str = DEFAULT,
        cron: str | None = None,
        zone: str = "UTC",
    ) -> None:
        """Schedule a call of `alarm(self, info)`. It replaces an alarm of the same name.

        when: ms since 1970 (int or float), a datetime with a time zone, or a
            timedelta from `now`. A time in the past means now.
        name: 1 to 255 printable characters. An object may have any number of alarms, each with its own name.
        cron: instead of `when`, a cron expression of five fields: the alarm repeats.
        zone: the time zone of the cron expression, such as `Europe/Berlin`.

        Raises `ObjectError` if the class defines no `alarm`, or if not exactly one of `when` and `cron` is
        given; TypeError or ValueError for a time, expression, zone or name that is not valid.
        """
        overlay = self._writable()
        if not self._view.has_alarm_handler:
            raise ObjectError(
                f"{self.id} sets an alarm and its class has none: define `async def alarm(self, info)`"
            )
        if (when is None) == (cron is None):
            raise ObjectError("set_alarm takes either a time or cron=")
        _alarm_name(name)
        if cron is not None:
            change = AlarmChange(name, next_due(cron, zone, self._now_ms), 0, cron, zone)
        else:
            assert when is not None
            change = AlarmChange(name, due_at(when, self._now_ms))
        overlay.effect().alarms[name] = change

    async def get_alarm(self, name: str = DEFAULT) -> int | None:
        """When the alarm is due, in ms since 1970. None if it is not set, is running now, or is parked."""
        row = self._alarm(_alarm_name(name))
        return None if row is None or row.parked else row.due_ms

    async def delete_alarm(self, name: str = DEFAULT) -> None:
        """Remove the alarm called `name`. Does nothing if it is not set."""
        overlay = self._writable()
        if self._alarm(_alarm_name(name)) is not None:
            overlay.effect().alarms[name] = AlarmChange(name, None)

    async def alarms(self) -> listing[Alarm]:
        """All alarms of the object, the earliest first; parked ones too."""
        overlay = self.inside()
        rows: dict[str, AlarmRow] = {}
        if not overlay.cleared:
            try:
                rows = self._view.alarms()
            except Exception as error:
                overlay.failure = error
                raise
        for change in overlay.effects.alarms.values() if overlay.effects is not None else ():
            row = alarm_row(change, -1)
            if row is None:
                rows.pop(change.name, None)
            else:
                rows[change.name] = row
        listed = [
            Alarm(name, row.due_ms, row.cron, row.zone, row.attempt, row.parked)
            for name, row in rows.items()
            if not name.startswith("\0")
        ]
        return sorted(listed, key=lambda alarm: (alarm.due_ms, alarm.name))

    def _alarm(self, name: str) -> AlarmRow | None:
        """As the turn sees it."""
        overlay = self.inside()
        if overlay.effects is not None and name in overlay.effects.alarms:
            return alarm_row(overlay.effects.alarms[name], -1)
        if overlay.cleared:
            return None
        try:
            return self._view.alarm(name)
        except Exception as error:
            overlay.failure = error
            raise


def _alarm_name(name: object) -> str:
    """`name` if it can be an alarm's. Raises TypeError or ValueError."""
    if type(name) is not str:
        raise TypeError(f"an alarm's name is a str, not {type(name).__name__}")
    if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise ValueError(
            f"an alarm's name has 1 to {MAX_NAME_CHARS} printable characters, unlike {name[:40]!r}"
        )
    return name
