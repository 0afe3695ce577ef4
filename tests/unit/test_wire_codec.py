"""Messages of the Kafka protocol, against the schemas of another implementation (kio)."""

from __future__ import annotations

import io
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from perdure.streams.wire.codec import (
    MAX_ELEMENTS,
    Array,
    Field,
    FrameReader,
    Message,
    Struct,
    UnreadableFrame,
    read,
    write,
)
from perdure.streams.wire.requests import APIS

VERSIONS = [
    (key, version)
    for key, api in sorted(APIS.items())
    for version in range(
        max(api.first, 3 if key == 0 else 0), api.last + 1
    )  # Produce 0-2 are advertised only
]


def example(kind: str | Array | Struct, name: str, version: int, random: Random) -> Any:
    """A value of a field, as another program may send it."""
    if isinstance(kind, Struct):
        return {
            field.name: example(field.kind, field.name, version, random)
            if field.since <= version <= field.until
            else field.default
            for field in kind.fields
        }
    if isinstance(kind, Array):
        if kind.nullable and random.random() < 0.2:
            return None
        return [example(kind.of, name, version, random) for _ in range(random.randrange(4))]
    if kind.startswith("nullable") and name != "records" and random.random() < 0.3:
        return None
    match kind.removeprefix("nullable "):
        case "bool":
            return random.random() < 0.5
        case "string":
            return "".join(random.choices("aé0._", k=random.randrange(200)))
        case "bytes":
            return random.randbytes(random.randrange(300))
    if name == "error":
        return random.randrange(90)
    return random.choice((0, 1, 7, 100))


@pytest.mark.parametrize(("key", "version"), VERSIONS)
@pytest.mark.parametrize("side", ["request", "response"])
def test_messages_are_what_another_implementation_reads_and_writes(key: int, version: int, side: str) -> None:
    """Messages are what another implementation reads and writes."""
    api, random = APIS[key], Random(f"{key} {version} {side}")
    compact = version >= api.flexible
    shape = api.request if side == "request" else api.response
    schema = (load_request_schema if side == "request" else load_response_schema)(key, version)
    for _ in range(6):
        message = example(shape, "", version, random)
        data = bytearray()
        write(shape, version, compact, data, message)
        theirs, size = entity_reader(schema)(bytes(data), 0)
        assert size == len(data)
        again = io.BytesIO()
        entity_writer(schema)(again, theirs)
        assert again.getvalue() == bytes(data)
        assert read(shape, version, compact, FrameReader(bytes(data))) == message


@pytest.mark.parametrize(("key", "version"), VERSIONS)
def test_a_message_that_is_cut_off_or_mutated_is_read_or_refused(key: int, version: int) -> None:
    """A message that is cut off or mutated is read or refused."""
    api, random = APIS[key], Random(f"cut {key} {version}")
    compact = version >= api.flexible
    data = bytearray()
    while len(data) < 3:
        data = bytearray()
        write(api.request, version, compact, data, example(api.request, "", version, random))
        if not api.request.fields or all(f.since > version for f in api.request.fields):
            return
    for cut in range(len(data)):
        with pytest.raises(UnreadableFrame):
            read(api.request, version, compact, FrameReader(bytes(data[:cut])))
    for _ in range(60):
        mutated = bytearray(data)
        for _ in range(random.randrange(1, 4)):
            mutated[random.randrange(len(mutated))] = random.choice(
                (0, 1, 0x7F, 0x80, 0xFF, random.randrange(256))
            )
        with suppress(UnreadableFrame):
            read(api.request, version, compact, FrameReader(bytes(mutated)))


@pytest.mark.parametrize("compact", [False, True])
def test_no_length_is_trusted(compact: bool) -> None:
    """An array that claims 2^31 elements takes no memory; one of many tiny elements is refused too."""
    names = Struct((Field("names", Array("string")),))
    claim = b"\xff\xff\xff\xff\x07" if compact else b"\x7f\xff\xff\xff"
    with pytest.raises(UnreadableFrame, match="an array of"):
        read(names, 0, compact, FrameReader(claim + bytes(20)))
    many: Message = {"names": [""] * (MAX_ELEMENTS + 1)}
    data = bytearray()
    write(names, 0, compact, data, many)
    with pytest.raises(UnreadableFrame, match="an array of"):
        read(names, 0, compact, FrameReader(bytes(data)))
