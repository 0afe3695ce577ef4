"""When an alarm is due, what comes after it rang, and which classes can have one: values in, values out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from perdure.objects.alarms import (
    RETRIES,
    AlarmInfo,
    after_failure,
    after_success,
    due_at,
    next_due,
    redriven,
)
from perdure.objects.durable import DurableObject
from perdure.objects.registry import ObjectType
from perdure.schemas.alarms import TTL, Ring, alarm_command, parse_ring
from perdure.schemas.effects import AlarmChange, AlarmRow
from perdure.schemas.errors import ConfigError, MalformedCommand

NOW_MS = 1_700_000_000_000
NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("when", "due_ms"),
    [
        (NOW_MS + 5, NOW_MS + 5),
        (NOW_MS + 4.2, NOW_MS + 5),
        (NOW_MS - 5, NOW_MS),
        (0, NOW_MS),
        (-1.5, NOW_MS),
        (timedelta(seconds=60), NOW_MS + 60_000),
        (timedelta(microseconds=1), NOW_MS + 1),
        (timedelta(days=-1), NOW_MS),
        (NOW + timedelta(seconds=2, microseconds=1), NOW_MS + 2001),
        ((NOW + timedelta(seconds=2)).astimezone(timezone(timedelta(hours=5))), NOW_MS + 2000),
    ],
)
def test_a_time_is_ms_a_datetime_or_a_timedelta(when: Any, due_ms: int) -> None:
    """Rounded up, as an alarm is never early; what has passed is now."""
    assert due_at(when, NOW_MS) == due_ms


@pytest.mark.parametrize(
    ("when", "error", "told"),
    [
        (float("nan"), ValueError, "is not a time"),
        (float("inf"), ValueError, "is not a time"),
        (NOW_MS * 1000, ValueError, "after the year 9999"),
        (datetime(2024, 1, 1), ValueError, "has no time zone"),
        (True, TypeError, "not bool"),
        ("tomorrow", TypeError, "not str"),
    ],
)
def test_what_is_no_time_says_what_one_is(when: Any, error: type[Exception], told: str) -> None:
    """Type and text name it."""
    with pytest.raises(error, match=told):
        due_at(when, NOW_MS)


def cron_times(cron: str, after: datetime, count: int) -> list[str]:
    """The next `count` times in Berlin, as its clocks show them, with the offset from UTC."""
    found, at_ms = [], int(after.timestamp() * 1000)
    for _ in range(count):
        at_ms = next_due(cron, "Europe/Berlin", at_ms)
        found.append(datetime.fromtimestamp(at_ms / 1000, BERLIN).strftime("%d %H:%M %z"))
    return found


def test_a_cron_expression_follows_the_clocks_of_its_zone() -> None:
    """As cron does: a time that is skipped in spring comes when it would have been,
    one that is there twice once.
    """
    spring, autumn = datetime(2024, 3, 29, 12, tzinfo=BERLIN), datetime(2024, 10, 25, 12, tzinfo=BERLIN)
    assert cron_times("30 8 * * *", spring, 3) == ["30 08:30 +0100", "31 08:30 +0200", "01 08:30 +0200"]
    assert cron_times("30 2 * * *", spring, 3) == ["30 02:30 +0100", "31 03:00 +0200", "01 02:30 +0200"]
    assert cron_times("30 2 * * *", autumn, 3) == ["26 02:30 +0200", "27 02:30 +0200", "28 02:30 +0100"]
    hourly = cron_times("0 * * * *", datetime(2024, 10, 27, 0, 30, tzinfo=UTC), 2)
    assert hourly == ["27 02:00 +0100", "27 03:00 +0100"]


def test_the_next_time_is_after_the_one_before() -> None:
    """Also from the very second, and from between two of them."""
    five = next_due("*/5 * * * *", "UTC", NOW_MS)
    assert five % 300_000 == 0
    assert next_due("*/5 * * * *", "UTC", five) == five + 300_000
    assert next_due("*/5 * * * *", "UTC", five + 1) == five + 300_000
    assert next_due("*/5 * * * *", "", five - 1) == five


@pytest.mark.parametrize(
    ("cron", "zone", "told"),
    [
        ("every day", "UTC", "five fields"),
        ("61 * * * *", "UTC", "five fields"),
        ("0 0 30 2 *", "UTC", "cron='0 0 30 2"),
        ("* * * * *", "Europe/Nowhere", "not a time zone"),
        ("* * * * *", "../../etc/passwd", "not a time zone"),
        ("* * * * *", "\0", "not a time zone"),
    ],
)
def test_what_is_no_cron_expression_or_zone_is_named(cron: str, zone: str, told: str) -> None:
    """With what one looks like."""
    with pytest.raises(ValueError, match=told):
        next_due(cron, zone, NOW_MS)


def test_a_failure_puts_an_alarm_off_for_longer_each_time_and_then_parks_it() -> None:
    """Six retries, from 2 to 64 s; driven again it has all of them again, and keeps its cron expression."""
    row, pauses = AlarmRow(5, 9, 0, "* * * * *", "UTC"), []
    for _ in range(RETRIES):
        change = after_failure("a", row, NOW_MS)
        assert change.due_ms is not None
        assert not change.parked
        pauses.append(change.due_ms - NOW_MS)
        row = AlarmRow(change.due_ms, 9, change.attempt, change.cron, change.zone)
    assert pauses == [2000, 4000, 8000, 16_000, 32_000, 64_000]
    parked = after_failure("a", row, NOW_MS)
    assert parked == AlarmChange("a", row.due_ms, 7, "* * * * *", "UTC", parked=True)
    assert after_failure(TTL, row, NOW_MS).due_ms == NOW_MS + 64_000
    row = AlarmRow(5, 9, 7, "* * * * *", "UTC", parked=True)
    assert redriven("a", row, NOW_MS) == AlarmChange("a", NOW_MS, 0, "* * * * *", "UTC")


def test_after_a_success_a_cron_alarm_has_its_next_time_and_others_are_gone() -> None:
    """Times that passed meanwhile are left out: it rings once for them."""
    assert after_success("a", AlarmRow(5, 9), NOW_MS) == AlarmChange("a", None)
    late = AlarmRow(NOW_MS - 3_600_000, 9, 2, "0 * * * *", "UTC")
    following = after_success("a", late, NOW_MS)
    assert following == AlarmChange("a", next_due("0 * * * *", "UTC", NOW_MS), 0, "0 * * * *", "UTC")


def test_an_alarm_command_names_the_setting_it_is_for() -> None:
    """And how often it failed; nonsense in its place is named."""
    command = alarm_command("A/a", "n", AlarmRow(5, 9, 2))
    assert (command.key, command.method, command.deadline_ms) == ("A/a", "n", None)
    assert parse_ring(command.body) == Ring(9, 5, 2, since=9)
    for body in (b"", b"{}", b'{"set_at":"x","due":1}'):
        with pytest.raises(MalformedCommand, match="which setting"):
            parse_ring(body)


class Plain(DurableObject):
    async def alarm(self, info: AlarmInfo) -> None: ...


class Heir(Plain):
    """It has its alarm from its base."""


class Sync(DurableObject):
    def alarm(self, info: AlarmInfo) -> None: ...


class TwoMore(DurableObject):
    async def alarm(self, info: AlarmInfo, other: int) -> None: ...


class Named(DurableObject):
    async def alarm(self, *, info: AlarmInfo) -> None: ...


def test_a_class_says_how_its_alarm_is_called() -> None:
    """It is no method that callers have; one that cannot be called is an error at start, with the remedy."""
    for cls in (Plain, Heir):
        kind = ObjectType("A", cls)
        assert kind.alarm is not None
        assert kind.methods == {}
    assert ObjectType("A", DurableObject).alarm is None
    for cls in (Sync, TwoMore, Named):
        with pytest.raises(ConfigError, match="async def alarm"):
            ObjectType("A", cls)
