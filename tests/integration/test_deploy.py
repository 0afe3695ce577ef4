"""What docs/deployment.md hands out as files: the unit, the image, the alerts, the
board and the topics hold what they say.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.kafka_clients import Client, NoClient
from tests.process import COMMAND, Server, clean_environ, serve

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
METRIC = re.compile(r"\b((?:perdure|process)_\w+)")
PATIENCE_S = 60


@pytest.fixture
def server(counter: Path, tmp_path: Path) -> Iterator[Server]:
    """A node that has served a request."""
    with serve(counter, tmp_path / "data") as running:
        httpx.post(f"{running.url}/objects/Counter/a", timeout=PATIENCE_S).raise_for_status()
        yield running


def metrics(server: Server) -> set[str]:
    """The names of what `/metrics` shows."""
    text = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text
    return set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE))


def rules() -> list[dict[str, Any]]:
    """The alerts."""
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """The panels of the board."""
    found: list[dict[str, Any]] = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    return found


def test_alerts_and_board_name_metrics_that_are_there(server: Server) -> None:
    """Each expression names metrics that a running node shows, and each metric of
    perdure's is looked at by one.
    """
    described = (DEPLOY.parent / "metrics.md").read_text()  # which names all, also those of snapshots
    there = metrics(server) | set(re.findall(r"`(perdure_snapshot\w+)` \|", described))
    expressions = [rule["expr"] for rule in rules()]
    expressions += [target["expr"] for panel in panels() for target in panel["targets"]]
    named = {name for expression in expressions for name in METRIC.findall(expression)}
    assert named - there == set()
    assert {name for name in there if name.startswith("perdure_")} - named == set()


def test_each_alert_says_what_happened_and_what_to_do() -> None:
    """A name of its own, a severity, a summary and an action; labels are those of its metrics."""
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "action"}, rule["alert"]
        texts = " ".join(rule["annotations"].values())
        labels = {"instance"} if "by (instance)" in rule["expr"] else {"instance", "partition"}
        assert set(re.findall(r"\$labels\.(\w+)", texts)) <= labels, rule["alert"]


def test_prometheus_reads_the_alerts_and_the_board() -> None:
    """Its own parser (of 2.54) accepts every rule, and every expression of the board."""
    parser = Client(
        "prometheus", "2.54.1", "../integration/prometheus.go", ("go",), "",
        ("github.com/prometheus/prometheus@v0.54.1",),
    )  # fmt: skip
    try:
        parser.install()
    except NoClient as error:
        if os.environ.get("PERDURE_REQUIRE_CLIENTS") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    command, environ = parser.command(str(DEPLOY / "alerts.yml"))
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    lines = "\n".join(each.replace("$__rate_interval", "5m") for each in expressions)
    checked = subprocess.run(
        command, env=environ, input=lines, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert (checked.returncode, checked.stdout) == (0, "")


def test_the_board_is_laid_out() -> None:
    """Panels have ids of their own, lie within 24 columns and do not overlap."""
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in panels():
        x, y, w, h = (panel["gridPos"][name] for name in "xywh")
        assert x + w <= 24
        mine = {(x + dx, y + dy) for dx in range(w) for dy in range(h)}
        assert not mine & cells, panel["title"]
        cells |= mine


def unit() -> configparser.ConfigParser:
    """The systemd unit."""
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "shop.service")
    return parser


def test_the_unit_starts_and_stops_a_node(counter: Path, tmp_path: Path) -> None:
    """Its command serves, on the unit's data directory; its time to stop is longer
    than a node takes; exit 2 is final.
    """
    service = unit()["Service"]
    program, *arguments = service["ExecStart"].split()
    assert program.endswith("/bin/perdure")
    assert arguments == ["serve", "/opt/shop", "--data", "/var/lib/shop", "--log-format", "json"]
    assert service["StateDirectory"] == "shop"
    with serve(counter, tmp_path / "data", "--log-format", "json") as node:
        assert node.stop() == 0
    assert int(service["TimeoutStopSec"]) > 30
    assert service["RestartPreventExitStatus"] == "2"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, once program and user are ones of this machine."""
    program = Path(sys.executable).parent / "perdure"
    text = (DEPLOY / "shop.service").read_text()
    text = text.replace("/opt/shop/.venv/bin/perdure", str(program))
    text = re.sub(r"^(User|Group)=shop$", r"\1=root", text, flags=re.MULTILINE)
    (tmp_path / "shop.service").write_text(text)
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "shop.service")],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    ours = [line for line in checked.stderr.splitlines() if "shop.service" in line]
    assert ours == []
    assert checked.returncode == 0, checked.stderr


def test_the_commands_of_the_image_run(counter: Path, tmp_path: Path) -> None:
    """CMD serves and HEALTHCHECK sees it, outside a container: with another address, folder and port."""
    text = (DEPLOY / "Dockerfile").read_text()
    command = json.loads(re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)[0])
    check = json.loads(re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", text, re.MULTILINE)[0])
    assert command == [
        "perdure",
        "serve",
        ".",
        "--host",
        "0.0.0.0",
        "--data",
        "/data",
        "--log-format",
        "json",
    ]
    refused = subprocess.run(
        [*COMMAND, *command[1:], "--port", "0"], cwd=counter.parent, env=clean_environ(),
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "[[tokens]]" in refused.stderr
    with serve(Path("."), tmp_path / "data", "--log-format", "json", cwd=counter.parent) as server:
        port = server.url.rpartition(":")[2]
        line = check[2].replace("8787", port)
        assert line != check[2]
        assert subprocess.run([sys.executable, "-c", line], check=False, timeout=PATIENCE_S).returncode == 0
        server.kill()
        assert subprocess.run(
            [sys.executable, "-c", line], check=False, capture_output=True, timeout=PATIENCE_S
        ).returncode
