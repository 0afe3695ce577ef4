"""The socket for Kafka clients: which address it is, by configuration and command, and what is refused."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from perdure.api import kafka_listener
from perdure.api.kafka_listener import bind_kafka
from perdure.schemas.config import Config, parse_config
from perdure.schemas.errors import ConfigError, OperatorError


def config(**flags: object) -> Config:
    return parse_config("", "perdure.toml", flags=flags, default_name="shop")


@pytest.fixture
def taken() -> str:
    """An address in use, for as long as the test lasts."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    _held.append(holder)
    return f"127.0.0.1:{holder.getsockname()[1]}"


_held: list[socket.socket] = []


def test_serve_has_none_unless_it_is_named() -> None:
    """`perdure dev` has one by itself, but not beside Kafka, nor if it is off."""
    assert bind_kafka(config(), dev=False) == (None, "")
    assert bind_kafka(config(kafka_listen="off"), dev=True) == (None, "")
    assert bind_kafka(config(log="kafka://127.0.0.1:1"), dev=True) == (None, "")


def test_an_address_that_is_named_is_bound() -> None:
    """The line says where, and which topics are there."""
    port = bind_kafka(config(kafka_listen="127.0.0.1:0"), dev=False)
    assert port.listener is not None
    with closing(port.listener):
        assert port.line == f"Kafka clients: {port.address}, topics shop.commands and shop.replies"
        assert port.address == f"127.0.0.1:{port.listener.getsockname()[1]}"


def test_dev_goes_on_without_it_where_the_port_is_taken(taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so; an address that was named is an error then."""
    monkeypatch.setattr(kafka_listener, "DEV_ADDRESS", taken)
    port = bind_kafka(config(), dev=True)
    assert port.listener is None
    assert taken in port.line
    assert "--kafka" in port.line
    with pytest.raises(OperatorError, match="in use"):
        bind_kafka(config(kafka_listen=taken), dev=True)


def test_what_others_reach_needs_tokens() -> None:
    """As the HTTP port does, unless it is allowed."""
    with pytest.raises(ConfigError, match="without a token"):
        bind_kafka(config(kafka_listen="0.0.0.0:0"), dev=False)
    port = bind_kafka(config(kafka_listen="0.0.0.0:0", insecure_public=True), dev=False)
    assert port.listener is not None
    port.listener.close()


@pytest.mark.parametrize("text", ["", "9092", "localhost", "localhost:99999", "http://x:1", "a b:1"])
def test_what_is_not_an_address_is_refused(text: str) -> None:
    """The error names the setting."""
    with pytest.raises(ConfigError, match="kafka"):
        config(kafka_listen=text)


def test_an_address_of_another_machine_is_refused() -> None:
    """And one beside brokers: clients connect to those."""
    with pytest.raises(ConfigError, match="cannot be used"):
        bind_kafka(config(kafka_listen="192.0.2.1:9092", insecure_public=True), dev=False)
    with pytest.raises(ConfigError, match="connect to the brokers"):
        bind_kafka(config(kafka_listen="127.0.0.1:0", log="kafka://127.0.0.1:1"), dev=False)
