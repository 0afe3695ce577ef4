"""What the settings of an app's topics mean for its promises: decisions only, without I/O.

A start looks at the settings with one request, refuses those that break a promise and warns of those that
weaken one; `perdure doctor` shows them all.

Laws
- Each finding that is not in order names the command that mends it. [test_kafka_checks.py]
- A setting that a broker does not have is not judged. [test_kafka_checks.py]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from perdure.schemas.findings import OK, REFUSED, WARNING, Finding
from perdure.streams.log.kafka.clients import MAX_MESSAGE_BYTES, Endpoint
from perdure.streams.log.kafka.metadata import Described

SETTINGS = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "LogAppendTime",
    "max.message.bytes": str(MAX_MESSAGE_BYTES),
    "unclean.leader.election.enable": "false",
    # The broker unpacks what others compress: Python alone could not read Snappy, LZ4 or Zstandard.
    "compression.type": "uncompressed",
}
LOOKED_AT = (*SETTINGS, "min.insync.replicas", "write.caching")
KEPT_DAYS = 7  # at least, of commands and replies that a broker without DeleteRecords removes by age
_READABLE = ("uncompressed", "gzip")
_MEANS = {
    "cleanup.policy": "the broker would remove records that state depends on",
    "retention.ms": "the broker would remove records by age, done or not",
    "retention.bytes": "the broker would remove records by size, done or not",
    "message.timestamp.type": "log time would be that of each producer's clock",
    "unclean.leader.election.enable": "a broker that lacks acknowledged records may become a leader, and they are lost",
    "write.caching": "a write is acknowledged before it is on a disk",
}


def setting_findings(
    endpoint: Endpoint, name: str, values: Mapping[str, str | None], topic: Described, *, trims: bool = True
) -> Iterator[Finding]:
    """The findings about one topic.

    values: its settings in force, of those in `LOOKED_AT`.
    trims: True if the broker has DeleteRecords.
    """
    refused = []
    aged = not trims and not name.endswith(".journal")
    for setting in (*list(_MEANS)[:5], "write.caching"):
        value = values.get(setting)
        if value is None:
            continue
        wanted = SETTINGS.get(setting, "false")
        if not _fits(setting, value, wanted, values, aged=aged):
            problem = f"{setting}={value}, but perdure needs {wanted}: {_MEANS[setting]}"
            refused.append(Finding(f"topic {name}", REFUSED, problem, alter(endpoint, name, setting, wanted)))
    yield from refused or [Finding(f"topic {name}", OK, "the settings in force keep its records")]
    yield from _weak(endpoint, name, values)
    if values.get("min.insync.replicas") is not None:
        yield _copies(endpoint, name, int(values["min.insync.replicas"] or 1), topic.copies)


def _fits(setting: str, value: str, wanted: str, values: Mapping[str, str | None], *, aged: bool) -> bool:
    if setting == "cleanup.policy":
        return value in (wanted, "")  # empty: nothing is ever removed
    if setting.startswith("retention."):
        kept = values.get("cleanup.policy") == "" or value == wanted
        return kept or (aged and setting == "retention.ms" and int(value) >= KEPT_DAYS * 86_400_000)
    if setting == "write.caching":
        return value != "true"
    return value == wanted


def _weak(endpoint: Endpoint, name: str, values: Mapping[str, str | None]) -> Iterator[Finding]:
    largest, codec = values.get("max.message.bytes"), values.get("compression.type")
    if largest is not None and int(largest) < MAX_MESSAGE_BYTES:
        mend = alter(endpoint, name, "max.message.bytes", str(MAX_MESSAGE_BYTES))
        yield Finding(
            f"message size of {name}",
            WARNING,
            f"max.message.bytes={largest}: a record above it, of up to {MAX_MESSAGE_BYTES}, stops its partition",
            mend,
        )
    if codec is not None and codec not in _READABLE:
        yield Finding(
            f"compression of {name}",
            WARNING,
            f"compression.type={codec}: a client that compresses with Snappy, LZ4 or Zstandard would stop the node",
            alter(endpoint, name, "compression.type", SETTINGS["compression.type"]),
        )


def _copies(endpoint: Endpoint, name: str, minimum: int, copies: int) -> Finding:
    """How many copies an acknowledged write has at least: never more than there are, whatever is
    configured."""
    check, effective = f"copies of {name}", min(minimum, copies)
    seen = f"{copies} copies, min.insync.replicas={minimum}"
    if effective < 2 and copies < 3:
        more = "" if minimum <= copies else ", of which no more than that count"
        return Finding(
            check,
            WARNING,
            f"{seen}{more}: a write is acknowledged by one broker, before its disk has synced",
            "for production: three brokers, topics with three copies (docs/deploy/make-topics.sh, or "
            "kafka-reassign-partitions.sh) and min.insync.replicas=2",
        )
    if effective < 2:
        mend = alter(endpoint, name, "min.insync.replicas", "2")
        return Finding(check, WARNING, f"{seen}: a write is acknowledged when one broker has it", mend)
    if effective == copies:
        mend = (
            alter(endpoint, name, "min.insync.replicas", str(copies - 1))
            if copies > 2
            else "use three copies"
        )
        return Finding(check, WARNING, f"{seen}: writes stop when one broker is down", mend)
    return Finding(check, OK, f"{seen}: a write is acknowledged when {effective} brokers have it")


def alter(endpoint: Endpoint, name: str, setting: str, value: str) -> str:
    """The command that sets a topic's setting."""
    return (
        f"Set it with kafka-configs.sh --bootstrap-server {endpoint.bootstrap} --alter --entity-type topics "
        f"--entity-name {name} --add-config {setting}={value}"
    )
