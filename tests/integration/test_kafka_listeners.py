"""Listeners that perdure cannot use: the error says what listens there, and what to do."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.kafka import LocalKafka, free_ports, or_skip

from perdure.schemas.errors import LogUnreachable
from perdure.streams.log.kafka import probe
from perdure.streams.log.kafka.log import KafkaLog
from perdure.streams.log.kafka.probe import advice

JAAS = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_admin="secret";'


class Guarded(LocalKafka):
    """One broker with a TLS and a SASL listener beside the plain one, at `tls` and `sasl`."""

    def _configure(self, node: int, extra: Mapping[str, str]) -> None:
        super()._configure(node, extra)
        store = self.directory / "keys.p12"
        made = [
            "-genkeypair",
            "-alias",
            "b",
            "-keyalg",
            "RSA",
            "-storetype",
            "PKCS12",
            "-dname",
            "CN=localhost",
        ]
        subprocess.run(
            ["keytool", *made, "-keystore", str(store), "-storepass", "changeit"],
            check=True,
            capture_output=True,
        )
        tls, sasl = free_ports(2)
        self.tls, self.sasl = f"127.0.0.1:{tls}", f"127.0.0.1:{sasl}"
        more = f",SSL://{self.tls},SASL_PLAINTEXT://{self.sasl}"
        config = self._config(node)
        lines = [
            f"{line}{more}" if line.startswith(("listeners=", "advertised.listeners=")) else line
            for line in config.read_text().splitlines()
        ]
        settings = {
            "ssl.keystore.location": str(store),
            "ssl.keystore.password": "changeit",
            "ssl.keystore.type": "PKCS12",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": JAAS,
        }
        lines += [f"{name}={value}" for name, value in settings.items()]
        config.write_text("\n".join(lines) + "\n")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    kafka = or_skip(lambda: Guarded(tmp_path / "kafka"))
    yield kafka
    kafka.stop()


@pytest.mark.kafka
def test_tls_and_sasl_listeners_are_named(guarded: Guarded) -> None:
    """A start at either fails with what it is, in place of what looks like a dead port."""

    async def story() -> None:
        for address, told in (
            (guarded.tls, "speaks TLS: TLS is not supported"),
            (guarded.sasl, "asks for SASL"),
        ):
            log = KafkaLog(address, "app", 1, clock_ms=lambda: 1, connect_timeout_s=1.0)
            with pytest.raises(LogUnreachable, match=f"{address} {told}.*name a PLAINTEXT listener"):
                await log.start()
        assert "Check that the brokers run" in await advice(guarded.bootstrap)

    asyncio.run(story())


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


async def _is_a_web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def _is_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("serve", "told"),
    [
        (_closes, "closes the connection at the first request"),
        (_is_a_web_server, "does not speak Kafka's protocol: it answers b'HTTP/1.1"),
        (_is_silent, "accepts connections but answers nothing"),
    ],
)
def test_whatever_listens_there_is_said(serve: Serve, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that is no broker is described by what it does."""
    monkeypatch.setattr(probe, "PROBE_S", 0.3)

    async def story() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assert told in await advice(f"127.0.0.1:{port}")
        server.close()

    asyncio.run(story())


def test_a_dead_port_is_said() -> None:
    """Nothing listens there: the system's own words, and what to check."""
    (port,) = free_ports(1)
    said = asyncio.run(advice(f"127.0.0.1:{port}"))
    assert "takes no connection" in said
    assert "Check that the brokers run" in said
