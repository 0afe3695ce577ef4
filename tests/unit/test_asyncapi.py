"""What the AsyncAPI document says of records, held against the records that perdure reads and writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from perdure import DurableObject, Request, Response
from perdure.api.openapi.asyncapi import asyncapi
from perdure.objects.registry import Registry
from perdure.schemas.commands import CALL, FETCH, Command, call_body, command_record, parse_command
from perdure.schemas.config import Config
from perdure.schemas.errors import MalformedCommand
from perdure.schemas.replies import (
    FAILED,
    PARKED,
    REFUSED,
    REJECTED,
    UNAVAILABLE,
    Reply,
    error_reply,
    reply_record,
)
from perdure.streams.log.base import LogRecord
from perdure.streams.turns.entries import dead_letter


class Cart(DurableObject):
    """What somebody wants to buy."""

    async def put(self, name: str, count: int = 1) -> int:
        """Put something in.

        As often as it is said.
        """
        return count

    async def fetch(self, request: Request) -> Response:
        """All of it."""
        return Response("[]")


def made(**settings: Any) -> dict[str, Any]:
    config = Config(name="shop", **settings)
    return asyncapi(config, Registry.build({"Cart": Cart}, config))


DOCUMENT = made()


def fits(part: Any, value: Any) -> bool:
    """Does `value` fit a schema of the document, or the headers or payload of one of its messages?"""
    return jsonschema_rs.Draft202012Validator({**DOCUMENT, "allOf": [part]}).is_valid(value)


def message(name: str) -> Any:
    return DOCUMENT["components"]["messages"][name]


def text_of(headers: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in headers}


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            yield from [value] if key == "$ref" else references(value)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


def test_every_reference_leads_somewhere() -> None:
    """From operations to messages of channels, from there to components, to schemas."""
    found = set(references(DOCUMENT))
    assert "#/channels/commands/messages/Cart.put" in found
    for reference in found:
        place: Any = DOCUMENT
        for word in reference.removeprefix("#/").split("/"):
            place = place[word]


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ({"method": "put", "args": ["tea", 2]}, True),
        ({"method": "put", "args": ["tea"], "kwargs": {"count": 2}}, True),
        ({"method": "put", "kwargs": {"name": "tea"}}, True),
        ({"method": "put"}, False),
        ({"method": "get", "args": ["tea"]}, False),
        ({"args": ["tea"]}, False),
        ({"method": "put", "args": ["tea", "two"]}, False),
        ({"method": "put", "args": ["tea"], "more": 1}, False),
    ],
)
def test_a_records_value_is_a_call_with_its_method(value: dict[str, Any], is_one: bool) -> None:
    """Exactly what the method can be called with, and the method's own name."""
    assert fits(message("Cart.put")["payload"], value) is is_one


@pytest.mark.parametrize("name", ["Cart.put", "Cart.fetch"])
def test_what_perdure_itself_sends_fits(name: str) -> None:
    """Its headers too, each that a client may set; and it is read as the same command."""
    said: dict[str, Any] = {
        "id": "7",
        "reply_to": "3/me",
        "deadline_ms": 500,
        "client_key": "a",
        "traceparent": "00-1",
    }
    if name == "Cart.put":
        command = Command("Cart/a", CALL, "put", body=call_body("put", ["tea"], {}), **said)
    else:
        command = Command("Cart/a", FETCH, "POST", "/x?y=1", (("accept", "*/*"),), b"\xff", **said)
    key, value, headers = command_record(command)
    assert parse_command(key, value, headers) == command
    assert fits(message(name)["headers"], text_of(headers))
    assert fits(message(name)["bindings"]["kafka"]["key"], key.decode())
    assert not fits(message(name)["bindings"]["kafka"]["key"], "Other/a")


@pytest.mark.parametrize("header", [("perdure-kind", "alarm"), ("perdure-v", "2"), ("idempotency-key", "")])
def test_headers_that_are_refused_do_not_fit(header: tuple[str, str]) -> None:
    """What the document forbids is a dead letter, and the other way round."""
    name, value = header
    with pytest.raises(MalformedCommand):
        parse_command(b"Cart/a", b'{"method":"put"}', ((name, value.encode()),))
    assert not fits(message("Cart.put")["headers"], dict([header]))


def test_replies_and_errors_are_as_they_are_described() -> None:
    """As `reply_record` writes them."""
    good = reply_record(Reply("ok", 200, (), b'{"result": 2}'), b"Cart/a", "0:1/0", "7", "0:0")
    assert fits(message("Cart.put.reply")["headers"], text_of(good[2]))
    assert fits(message("Cart.put.reply")["payload"], json.loads(good[1]))
    assert not fits(message("Cart.put.reply")["payload"], {"result": "two"})
    for outcome in (REFUSED, FAILED, REJECTED, UNAVAILABLE, PARKED):
        _, value, headers = reply_record(error_reply(outcome, "code", "why", [1]), b"k", "0:1/0", "7", "0:0")
        assert fits(message("error")["headers"], text_of(headers))
        assert not fits(message("Cart.put.reply")["headers"], text_of(headers))
        assert fits(message("error")["payload"], json.loads(value))


def test_dead_letters_are_as_they_are_described() -> None:
    """As the owner lets them out."""
    (out,) = dead_letter(
        LogRecord(5, 0, b"no key", b"", (("perdure-v", b"2"),)), MalformedCommand("why"), 3, ""
    ).outbox
    assert fits(message("dead")["headers"], text_of(out.headers))
    assert not fits(message("dead")["headers"], {"perdure-v": "2"})


def test_topics_partitions_and_brokers_are_the_configured_ones() -> None:
    """On the embedded log, which no Kafka client reaches, there is no server, and it is said."""
    topics = {name: channel["address"] for name, channel in DOCUMENT["channels"].items()}
    assert topics == {"commands": "shop.commands", "replies": "shop.replies", "dead": "shop.dead"}
    assert DOCUMENT["servers"] == {}
    assert "embedded log" in DOCUMENT["info"]["description"]
    of_kafka = made(log="kafka://a:9092,b:9093", partitions=3)
    assert [server["host"] for server in of_kafka["servers"].values()] == ["a:9092", "b:9093"]
    assert of_kafka["channels"]["commands"]["bindings"]["kafka"]["partitions"] == 3
    assert "embedded log" not in of_kafka["info"]["description"]


def test_the_version_is_a_hash_of_what_is_said() -> None:
    """The same for the same, another for anything else."""
    assert made()["info"]["version"] == DOCUMENT["info"]["version"]
    assert made(partitions=3)["info"]["version"] != DOCUMENT["info"]["version"]


def test_docstrings_are_its_texts() -> None:
    """Of the class for the namespace, of the method for its operation."""
    operation = DOCUMENT["operations"]["Cart.put"]
    assert (operation["summary"], operation["description"]) == (
        "Put something in.",
        "As often as it is said.",
    )
    assert DOCUMENT["info"]["tags"] == [{"name": "Cart", "description": "What somebody wants to buy."}]


def test_topics_after_a_rescale_have_their_names_of_now() -> None:
    """A rescale on Kafka gives them other names."""
    config = Config(name="shop")
    channels = asyncapi(config, Registry.build({"Cart": Cart}, config), "shop.g2")["channels"]
    assert {each["address"] for each in channels.values()} == {
        "shop.g2.commands",
        "shop.g2.replies",
        "shop.g2.dead",
    }
    assert channels["commands"]["bindings"]["kafka"]["topic"] == "shop.g2.commands"
