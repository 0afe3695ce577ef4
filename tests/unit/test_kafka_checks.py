"""What settings of topics mean: decisions over values that brokers report, and what each finding advises."""

from __future__ import annotations

import re

import pytest

from perdure.schemas.findings import OK, REFUSED, WARNING, Finding

pytest.importorskip("aiokafka")

from perdure.streams.log.kafka.checks import SETTINGS, setting_findings
from perdure.streams.log.kafka.clients import Endpoint
from perdure.streams.log.kafka.examine import offset_findings
from perdure.streams.log.kafka.metadata import Described

ENDPOINT = Endpoint("kafka:9092", "test", {})
AS_MADE = {**SETTINGS, "min.insync.replicas": "2"}
DAY_MS = 86_400_000


def findings(
    *, name: str = "shop.commands", copies: int = 3, trims: bool = True, **changed: str | None
) -> list[Finding]:
    """Those about a topic as perdure makes it, but for some settings (`_` for `.`; None: the broker has
    none)."""
    values = AS_MADE | {key.replace("_", "."): value for key, value in changed.items()}
    topic = Described("id", 0, (1,), copies)
    return list(setting_findings(ENDPOINT, name, values, topic, trims=trims))


def states(found: list[Finding]) -> set[str]:
    return {each.state for each in found}


def test_topics_as_perdure_makes_them_are_in_order() -> None:
    """Three copies, two of which acknowledge."""
    assert states(findings()) == {OK}


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("cleanup.policy", "compact", "delete"),
        ("cleanup.policy", "compact,delete", "delete"),
        ("retention.ms", "604800000", "-1"),
        ("retention.bytes", "1000000", "-1"),
        ("message.timestamp.type", "CreateTime", "LogAppendTime"),
        ("unclean.leader.election.enable", "true", "false"),
        ("write.caching", "true", "false"),
    ],
)
def test_what_breaks_a_promise_is_refused_with_the_command(setting: str, value: str, wanted: str) -> None:
    """The finding names topic, setting and value, what it would do, and the command that sets the right
    one."""
    (refused,) = [each for each in findings(**{setting: value}) if each.state == REFUSED]
    assert f"topic shop.commands: {setting}={value}, but perdure needs {wanted}: " in str(refused)
    command = f"kafka-configs.sh --bootstrap-server kafka:9092 --alter .* --add-config {setting}={wanted}"
    assert re.search(command, refused.mend)


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("max.message.bytes", "1048588", "stops its partition"),
        ("compression.type", "producer", "would stop the node"),
        ("compression.type", "zstd", "would stop the node"),
    ],
)
def test_what_weakens_a_promise_is_a_warning_with_the_command(setting: str, value: str, text: str) -> None:
    """A start goes on; the finding says what may happen."""
    (warning,) = [each for each in findings(**{setting: value}) if each.state == WARNING]
    assert text in warning.text
    assert f"--add-config {setting}={SETTINGS[setting]}" in warning.mend


@pytest.mark.parametrize(
    ("copies", "minimum", "state", "text"),
    [
        (3, "2", OK, "acknowledged when 2 brokers have it"),
        (3, "1", WARNING, "acknowledged when one broker has it"),
        (3, "3", WARNING, "writes stop when one broker is down"),
        (2, "2", WARNING, "writes stop when one broker is down"),
        (1, "1", WARNING, "acknowledged by one broker, before its disk has synced"),
        (1, "2", WARNING, "of which no more than that count"),
    ],
)
def test_the_effective_minimum_is_never_above_the_copies(
    copies: int, minimum: str, state: str, text: str
) -> None:
    """`min.insync.replicas` alone says nothing: with one copy, one acknowledges, whatever is configured."""
    found = findings(copies=copies, min_insync_replicas=minimum)
    (about,) = [each for each in found if each.check == "copies of shop.commands"]
    assert (about.state, text in about.text) == (state, True), about
    assert bool(about.mend) == (state == WARNING)


def test_an_empty_cleanup_policy_keeps_everything() -> None:
    """Whatever the retention is: nothing is ever removed (Kafka 4.2 and later)."""
    assert states(findings(cleanup_policy="", retention_ms="604800000", retention_bytes="1")) == {OK}


def test_settings_that_a_broker_does_not_have_are_not_judged() -> None:
    """Brokers that speak Kafka do not have all of them."""
    assert states(findings(unclean_leader_election_enable=None, compression_type=None)) == {OK}


def test_without_delete_records_commands_and_replies_may_go_by_age() -> None:
    """Seven days or more, and never the journal's."""
    week = str(7 * DAY_MS)
    assert states(findings(trims=False, retention_ms=week)) == {OK}
    assert REFUSED in states(findings(trims=False, retention_ms=str(6 * DAY_MS)))
    assert REFUSED in states(findings(trims=False, retention_ms=week, name="shop.journal"))
    assert REFUSED in states(findings(trims=True, retention_ms=week))


@pytest.mark.parametrize(
    ("first", "other", "after", "refused"),
    [
        ([0, 1, 2], 3, 4, []),
        ([0, 2, 4], 5, 6, ["consecutive offsets"]),
        ([0, 1, 2], 2, 3, ["second producer"]),
        ([0, 1, 2], 4, 3, ["second producer"]),
        ([0, 1, 2], -1, -1, ["second producer"]),
    ],
)
def test_offsets_that_ownership_could_not_rest_on_are_refused(
    first: list[int], other: int, after: int, refused: list[str]
) -> None:
    """Own batches follow each other, and a rival's record between them takes an offset of its own."""
    found = offset_findings(first, other, after)
    assert [each.check for each in found if each.state == REFUSED] == refused
    assert all(each.mend for each in found if each.state == REFUSED)
