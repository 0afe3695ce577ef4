"""`perdure decode`: what kcat prints of a journal becomes a line of JSON for each record."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from perdure.api.cli import app
from perdure.schemas.journal import Claim, Entry, EntryRecord, Header, NoOp, encode_chained, encode_unchained
from perdure.schemas.replies import Reply
from perdure.schemas.values import encode_value

CHAIN = bytes(16)


def printed(*values: bytes | None) -> bytes:
    """As kcat prints records with -f '%p %o %R%s'."""
    lines = []
    for offset, value in enumerate(values):
        size = (-1 if value is None else len(value)).to_bytes(4, "big", signed=True)
        lines.append(b"3 %d " % offset + size + (value or b""))
    return b"".join(lines)


def test_each_record_is_a_line() -> None:
    """Of every kind, with its fields by name and values as administration shows them."""
    puts = {"count": encode_value("count", 7), "raw": encode_value("raw", b"\xff")}
    entry = Entry(4, "Counter/a", 1_000, "ok", Reply("ok", 200, (), b'{"result":7}'), puts)
    values = [
        encode_unchained(Header("shop", "uuid", 3, 8)),
        encode_unchained(Claim("u", "n")),
        encode_chained(EntryRecord(1, 2, entry), CHAIN)[0],
        encode_chained(NoOp(1, 3, (5, 1)), CHAIN)[0],
        None,
        b"\x63",
    ]
    result = CliRunner().invoke(app, ["decode"], input=printed(*values))
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(each["partition"], each["offset"]) for each in lines] == [(3, n) for n in range(6)]
    assert [each.get("record") for each in lines] == ["header", "claim", "entry", "noop", None, None]
    assert (lines[0]["app"], lines[3]["done"]) == ("shop", [5, 1])
    assert lines[2]["puts"] == {"count": 7, "raw": {"$bytes": "/w=="}}
    assert (lines[2]["key"], lines[2]["reply"]["body"]) == ("Counter/a", '{"result":7}')
    assert all("not known" in each["error"] or "empty" in each["error"] for each in lines[4:])


@pytest.mark.parametrize(
    "data", [b"x", b"3 ", b"3 0 \x00\x00", b"3 0 \x00\x00\x00\x05abc", b"3 x \x00\x00\x00\x00"]
)
def test_another_format_is_an_error_that_names_this_one(data: bytes) -> None:
    """Whatever is on stdin."""
    result = CliRunner().invoke(app, ["decode"], input=data)
    assert "%p %o %R%s" in str(result.exception)
