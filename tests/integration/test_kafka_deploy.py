"""Topics of docs/deploy/make-topics.sh, on a real broker."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from tests.integration.test_deploy import DEPLOY, PATIENCE_S
from tests.kafka import LocalKafka, tools_or_skip
from tests.process import clean_environ, serve

from perdure.streams.log.kafka.checks import SETTINGS


@pytest.mark.kafka
def test_topics_made_by_hand_are_as_perdure_makes_them(
    broker: LocalKafka, counter: Path, tmp_path: Path
) -> None:
    """`make-topics.sh` on a real broker: perdure serves from its topics, and the settings are its own."""
    tools_or_skip(broker)
    tools, name = tmp_path / "tools", f"t{uuid4().hex[:12]}"
    app = Path(shutil.copy(counter, counter.with_name(f"{name}.py")))
    tools.mkdir()
    for tool, java_class in (
        ("topics", "org.apache.kafka.tools.TopicCommand"),
        ("configs", "kafka.admin.ConfigCommand"),
    ):
        line = " ".join(f"'{word}'" for word in broker.tool(java_class))
        (tools / f"kafka-{tool}.sh").write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (tools / f"kafka-{tool}.sh").chmod(0o755)
    made = subprocess.run(
        [DEPLOY / "make-topics.sh", name, "2", "1", broker.bootstrap],
        env=clean_environ(PATH=f"{tools}:/usr/bin:/bin"),
        capture_output=True,
        text=True,
        check=False,
        timeout=4 * PATIENCE_S,
    )
    assert made.returncode == 0, made.stderr + made.stdout
    for setting, value in SETTINGS.items():
        assert f"{setting}={value}" in (DEPLOY / "make-topics.sh").read_text(), setting
    assert made.stdout.count("retention.ms=-1 ") == 4
    assert made.stdout.count("min.insync.replicas=1 ") == 4
    options = ("--log", f"kafka://{broker.bootstrap}", "--partitions", "2")
    with serve(app, tmp_path / "data", *options) as server:
        counted = httpx.post(f"{server.url}/objects/Counter/a", timeout=PATIENCE_S)
        assert counted.json() == {"count": 1}
