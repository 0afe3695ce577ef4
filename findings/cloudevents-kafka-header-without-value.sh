#!/usr/bin/env bash
# cloudevents (Python): a Kafka record with any header that has no value cannot be read as an event.
#
# Kafka allows a header without a value (null), tracing agents and proxies send such ones. The SDK decodes the value of each
# header, also of those that are not CloudEvents', so a foreign one makes `from_binary_event` raise AttributeError, though all
# attributes of the event are there. Drop headers without a value before calling it.
#
# Seen: cloudevents 2.2.0 on CPython 3.11. Exits with 1 if that has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "cloudevents==2.2.0"

cat >"$dir/header.py" <<'PY'
import sys
from importlib.metadata import version

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event, to_binary_event
from cloudevents.core.v1.event import CloudEvent

attributes = {"id": "1", "source": "/shop", "type": "increment", "specversion": "1.0"}
sent = to_binary_event(CloudEvent(attributes=attributes, data={"by": 1}))
assert from_binary_event(sent).get_type() == "increment"

headers = {**sent.headers, "proxy-hint": None}
try:
    from_binary_event(KafkaMessage(headers=headers, key=sent.key, value=sent.value))
    outcome = "was read"
except Exception as error:
    outcome = f"{type(error).__name__}: {error}"
print(f"python {sys.version.split()[0]}, cloudevents {version('cloudevents')}")
print(f"an event with a foreign header without a value: {outcome}")
sys.exit(not outcome.startswith("AttributeError"))
PY
"$dir/venv/bin/python" "$dir/header.py"
