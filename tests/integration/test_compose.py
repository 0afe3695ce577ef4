"""What compose/ starts, as far as that can be seen without a container engine.

`compose-spec.json` is the schema of the Compose Specification (github.com/compose-spec/compose-spec,
Apache-2.0).
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from perdure.api.loading import load_config
from perdure.schemas.config import Config

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"
PINNED = re.compile(r"[a-z0-9./-]+:(v?\d+\.\d+\.\d+|RELEASE\.[0-9TZ-]+)")
DEFAULT = re.compile(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)\}")


def file() -> dict[str, Any]:
    """compose.yaml."""
    parsed: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    return parsed


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = file()["services"]
    return found


def environ(service: dict[str, Any]) -> dict[str, str]:
    """The environment of a service, with the defaults of its variables, and a secret."""
    values = service.get("environment", {})
    return {name: DEFAULT.sub(lambda found: found[2] or "s" * 40, value) for name, value in values.items()}


def nodes() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services().items() if name.startswith("node")}


def config(service: dict[str, Any]) -> Config:
    """The configuration of a node, as its command and its environment make it."""
    command = json.loads(re.findall(r"^CMD (\[.*\])$", (COMPOSE / "Dockerfile").read_text(), re.MULTILINE)[0])
    assert command[:3] == ["perdure", "serve", "examples"]
    words = command[3:]
    flags: dict[str, Any] = {
        "host": words[words.index("--host") + 1],
        "data_dir": Path(words[words.index("--data") + 1]),
        "insecure_public": "--insecure-public" in words,
    }
    return load_config(ROOT / "examples", environ=environ(service), flags=flags)


def test_it_follows_the_specification() -> None:
    """The schema of the Compose Specification accepts it; keys that begin with x- are its own."""
    schema = json.loads(Path(__file__).with_name("compose-spec.json").read_text())
    assert [str(error) for error in jsonschema_rs.validator_for(schema).iter_errors(file())] == []


def test_images_are_pinned_and_services_are_looked_at() -> None:
    """A tag that names one version; a health check; a restart; ports of this machine only, each once."""
    ports = []
    for name, service in services().items():
        if "build" not in service:
            assert PINNED.fullmatch(service["image"]), name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "on-failure", name
        ports += service.get("ports", ())
    assert all(port.startswith("127.0.0.1:") for port in ports)
    published = [port.split(":")[1] for port in ports]
    assert len(set(published)) == len(published)


def test_what_it_names_is_there() -> None:
    """Files that are mounted or built from, volumes, and services that others wait for."""
    volumes = set()
    for name, service in services().items():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).is_file(), mount
                assert mount.endswith(":ro"), mount
            else:
                volumes.add(source)
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services()[other], name
        if "build" in service:
            assert (COMPOSE / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert volumes == set(file()["volumes"])


def test_the_brokers_are_one_cluster() -> None:
    """Three voters of one cluster, each under its own name and number; three copies, two of which
    acknowledge.
    """
    brokers = {name: environ(each) for name, each in services().items() if name.startswith("kafka")}
    assert len(brokers) == 3
    assert len({each["CLUSTER_ID"] for each in brokers.values()}) == 1
    assert re.fullmatch(r"[\w-]{22}", brokers["kafka1"]["CLUSTER_ID"])
    voters = ",".join(f"{each['KAFKA_NODE_ID']}@{name}:9093" for name, each in brokers.items())
    for name, each in brokers.items():
        assert each["KAFKA_CONTROLLER_QUORUM_VOTERS"] == voters
        assert each["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{name}:9092"
        assert (each["KAFKA_DEFAULT_REPLICATION_FACTOR"], each["KAFKA_MIN_INSYNC_REPLICAS"]) == ("3", "2")
        assert each["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


@pytest.mark.parametrize("name", ["node1", "node2", "node3"])
def test_a_node_s_configuration_loads_and_names_the_other_services(name: str) -> None:
    """Kafka by all brokers, snapshots in the object storage, with its credentials, and one secret for all
    nodes.
    """
    service, storage = nodes()[name], services()["minio"]
    loaded = config(service)
    brokers = {each for each in services() if each.startswith("kafka")}
    assert {broker.rpartition(":")[0] for broker in loaded.kafka_brokers} == brokers
    assert loaded.standbys == 1
    assert loaded.seal_secret is not None
    assert loaded.snapshots is not None
    assert loaded.snapshots.endpoint == "http://minio:9000"
    bucket = loaded.snapshots.to.split("/")[2]
    assert f"/data/{bucket} " in storage["entrypoint"][-1]
    assert loaded.keep_journal_s == 86_400
    mine, theirs = environ(service), environ(storage)
    assert mine["AWS_ACCESS_KEY_ID"] == theirs["MINIO_ROOT_USER"]
    assert mine["AWS_SECRET_ACCESS_KEY"] == theirs["MINIO_ROOT_PASSWORD"]
    assert set(service["depends_on"]) == brokers | {"minio"}
    assert service["ports"][0].endswith(f":{loaded.port}")
    assert f":{loaded.port}/readyz" in service["healthcheck"]["test"][-1]
    assert "/data" in [mount.split(":")[1] for mount in service["volumes"]]


def test_prometheus_and_grafana_see_the_nodes() -> None:
    """Each node is scraped, under the job that the alerts name; the board and its data source are
    provisioned.
    """
    prometheus = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())
    (job,) = prometheus["scrape_configs"]
    assert job["job_name"] == "perdure"
    assert job["static_configs"][0]["targets"] == [f"{name}:8787" for name in nodes()]
    mounts = [mount.split(":") for each in ("prometheus", "grafana") for mount in services()[each]["volumes"]]
    inside = {target: source for source, target, *_ in mounts}
    assert prometheus["rule_files"] == ["/etc/prometheus/alerts.yml"]
    assert inside["/etc/prometheus/alerts.yml"].endswith("docs/deploy/alerts.yml")
    (provider,) = yaml.safe_load((COMPOSE / "grafana" / "dashboards.yml").read_text())["providers"]
    assert f"{provider['options']['path']}/perdure.json" in inside
    (source,) = yaml.safe_load((COMPOSE / "grafana" / "datasource.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["type"] == "prometheus"


def test_the_image_has_what_the_nodes_need() -> None:
    """The Dockerfile installs the extras of Kafka and of object stores, which the project has."""
    text = (COMPOSE / "Dockerfile").read_text()
    extras = re.findall(r'"\.\[([\w,]+)\]"', text)[0].split(",")
    assert set(extras) == {"kafka", "snapshots"}
    assert set(extras) <= set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    )
