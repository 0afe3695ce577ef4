"""Reading the log: records decoded and masked, queries, expressions, following, void records."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.one_owner import START_MS, OneOwner, story

from perdure.objects.durable import DurableObject
from perdure.schemas.errors import MalformedCommand, Refusal
from perdure.schemas.json_preview import json_preview
from perdure.schemas.secrecy import MASK
from perdure.streams.audit.columns import COLUMNS, row_of
from perdure.streams.audit.decoding import audit_record
from perdure.streams.audit.expression import NAMES, compile_expression
from perdure.streams.audit.query import Query, parse_query, parse_time
from perdure.streams.audit.reader import AuditLog, Span
from perdure.streams.audit.records import AuditRecord
from perdure.streams.audit.voids import Voids
from perdure.streams.log.base import LogRecord, Topic


class Purse(DurableObject):
    async def add(self, by: int, note: str = "") -> int:
        balance: int = await self.state.get("balance", 0) + by
        if balance < 0:
            raise Refusal("too little", code="too-little", detail={"token": "tk-1"})
        await self.state.put({"balance": balance, "api_key": "sk-1"})
        self.env.harness.registry  # noqa: B018 - the object is there
        return balance

    async def tell(self, name: str) -> None:
        binding = self.state  # a message to another object of the namespace
        await binding.put("last", name)

    async def login(self, password: str) -> str:
        await self.state.put("seen", password.lower() == password)
        return "Bearer abcdefgh"


async def some(harness: OneOwner) -> AuditLog:
    """Three objects at work; one is refused, one sends a secret."""
    await harness.call("a", "add", 5)
    await harness.call("b", "add", -1)
    await harness.call("a", "add", 2, principal="")
    await harness.call("c", "login", "hunter2")
    harness.append_raw(b"Thing/a", b"not a call")
    await harness.until(lambda: harness.owner.idle)
    return AuditLog(harness.log)


async def all_of(log: AuditLog, **fields: Any) -> list[AuditRecord]:
    return [each async for each in log.records(Query(**fields))]


def test_entries_are_read_with_what_was_asked_and_what_changed() -> None:
    """An entry names object, kind, method, outcome, values, and its command's offset; a refusal its error."""

    async def told(harness: OneOwner) -> None:
        log = await some(harness)
        entries = await all_of(log, type="entry")
        shown = [(each.object, each.kind, each.method, each.outcome, each.command) for each in entries]
        assert shown == [
            ("Thing/a", "call", "add", "ok", 0),
            ("Thing/b", "call", "add", "refused", 1),
            ("Thing/a", "call", "add", "ok", 2),
            ("Thing/c", "call", "login", "ok", 3),
            ("Thing/a", "", "", "rejected", 4),
        ]
        assert entries[2].values == {"balance": 7, "api_key": MASK}
        assert entries[2].result == 7
        assert entries[1].error == {"code": "too-little", "message": "too little", "detail": {"token": MASK}}
        assert entries[0].time_ms >= START_MS

    story(Purse, told)


def test_commands_and_dead_letters_are_read_too() -> None:
    """A command has its arguments; a record that is not one is unreadable, and a dead letter."""

    async def told(harness: OneOwner) -> None:
        log = await some(harness)
        commands = await all_of(log, topics=(Topic.COMMANDS,))
        assert [each.args for each in commands] == [[5], [-1], [2], ["hunter2"], None]
        assert commands[-1].type == "unreadable"
        (dead,) = await all_of(log, topics=(Topic.DEAD,))
        assert (dead.object, dead.command, dead.type) == ("Thing/a", 4, "dead")
        assert dead.error is not None
        assert "JSON" in dead.error["message"]

    story(Purse, told)


def test_no_secret_is_shown() -> None:
    """What stands under a telling name, and what looks like a credential, is masked in JSON."""

    async def told(harness: OneOwner) -> None:
        log = await some(harness)
        for topic in Topic:
            for record in await all_of(log, topics=(topic,)):
                text = str(record.as_json())
                assert not any(secret in text for secret in ("sk-1", "tk-1", "abcdefgh"))
                assert "seal" not in record.as_json().get("headers", {})

    story(Purse, told)


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"object": "Thing/a"}, 3),
        ({"namespace": "Thing", "method": "add"}, 3),
        ({"namespace": "Other"}, 0),
        ({"prefix": "Thing/b"}, 1),
        ({"outcome": "refused"}, 1),
        ({"where": 'values["balance"] > 5'}, 1),
        ({"where": 'outcome in ["ok", "refused"] and not method.startswith("log")'}, 3),
        ({"where": 'error["code"] == "too-little"'}, 1),
        ({"where": "status >= 200 and command % 2 == 0"}, 2),
        ({"from_offset": 4, "to_offset": 5, "topics": "commands"}, 1),
        ({"since": "9999-01-01"}, 0),
    ],
)
def test_a_query_selects(fields: dict[str, str], count: int) -> None:
    """Each filter, alone and together, as texts of the command line."""

    async def told(harness: OneOwner) -> None:
        log = await some(harness)
        texts = {"type": "", **{name: str(value) for name, value in fields.items()}}
        query = parse_query(texts, 1, harness.clock_ms())
        found = [each for each in await all_of(log, **_fields(query)) if each.type != "claim"]
        assert len(found) == count

    story(Purse, told)


def _fields(query: Query) -> dict[str, Any]:
    return {name: getattr(query, name) for name in query.__struct_fields__}


def test_the_last_records_are_read_from_the_end() -> None:
    """`last` gives as many as there are, the oldest first, and those of the end."""

    async def told(harness: OneOwner) -> None:
        log = await some(harness)
        assert [each.command for each in await log.last(Query(type="entry"), 2)] == [3, 4]
        assert len(await log.last(Query(type="entry"), 100)) == 5
        assert await log.last(Query(), 0) == []

    story(Purse, told)


def test_what_is_appended_is_followed() -> None:
    """`follow` begins at the end, or where it is told to, and goes on with what becomes durable."""

    async def told(harness: OneOwner) -> None:
        log = await some(harness)
        seen: list[AuditRecord] = []
        async with aclosing(log.follow(Query(object="Thing/d", type="entry"))) as chunks:
            async for chunk in chunks:
                seen += chunk
                if len(seen) == 2:
                    break
                await harness.call("d", "add", 1)
        assert [each.result for each in seen] == [1, 2]

    story(Purse, told)


def test_a_void_record_of_a_shared_journal_is_marked() -> None:
    """What an owner of the past wrote too late is there, and does not count."""

    async def told(harness: OneOwner) -> None:
        await harness.call("a", "add", 5)
        late = (await harness.records(Topic.JOURNAL))[-1]
        await harness.end()
        await harness.begin()
        stream = harness.broker.streams[Topic.JOURNAL, 0]
        await harness.call("a", "add", 1)
        log = AuditLog(harness.log)
        records = [audit_record(Topic.JOURNAL, 0, LogRecord(stream.end, late.time_ms, late.key, late.value))]
        (span,) = await log.spans(Query())
        counted = [each async for chunk in log.read(span) for each in chunk]
        assert not any(each.void for each in counted)
        voids = Voids()
        assert [voids.is_void(each.offset, each.detail) for each in [*counted, *records]] == [False] * len(
            counted
        ) + [True]
        await log.bounds(Topic.JOURNAL, 0)
        assert [each async for chunk in log.read(Span(Topic.JOURNAL, 0, 2, 2)) for each in chunk] == []

    story(Purse, told, shared=True)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "open('x')",
        "object.__class__",
        "(lambda: 1)()",
        "[x for x in args]",
        "secret",
        "object[0:1]",
        "2 ** 9",
        "f'{object}'",
        "method.format(1)",
        "a b",
        "",
        "x" * 3000,
    ],
)
def test_an_expression_can_only_look(text: str) -> None:
    """Anything else than the stated grammar is refused, with the reason."""
    with pytest.raises(MalformedCommand):
        compile_expression(text)


@given(
    st.sampled_from(sorted(NAMES)),
    st.sampled_from(["<", "in", "==", "not in", ">="]),
    st.sampled_from(sorted(NAMES)),
)
def test_an_expression_never_fails_on_a_record(left: str, op: str, right: str) -> None:
    """Whatever is compared with whatever: the answer is True or False."""
    record = AuditRecord(topic="journal", partition=0, offset=3, time_ms=1, type="entry")
    assert compile_expression(f"{left} {op} {right}")(record) in (True, False)
    assert compile_expression(f"{left}['x'][0] + {right} * 9 {op} -{left}")(record) in (True, False)


def test_a_product_of_a_text_is_not_made() -> None:
    """A text times a number would take as much memory as the number says."""
    record = AuditRecord(topic="journal", partition=0, offset=3, time_ms=1, type="entry")
    assert compile_expression("'a' * 9999999999 == None")(record) is True


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("2026-11-01T12:00", 1_793_534_400_000),
        ("2026-11-01T13:00+01:00", 1_793_534_400_000),
        ("15m", 1_793_534_400_000 - 900_000),
        ("now", 1_793_534_400_000),
        ("1793534400000", 1_793_534_400_000),
    ],
)
def test_a_time_is_read(text: str, time_ms: int) -> None:
    """ISO 8601, so long ago, now, or milliseconds."""
    assert parse_time(text, 1_793_534_400_000) == time_ms


@pytest.mark.parametrize("text", ["yesterday", "", "9" * 30, "-5m", "10000-01-01"])
def test_what_is_not_a_time_is_refused(text: str) -> None:
    """With the forms that are read."""
    with pytest.raises(MalformedCommand):
        parse_time(text, 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("topics", "jornal"),
        ("partition", "9"),
        ("from_offset", "-1"),
        ("object", "noslash"),
        ("colour", "red"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(name: str, text: str) -> None:
    """Unknown names and values name what there is."""
    with pytest.raises((MalformedCommand, Exception)):
        parse_query({name: text}, 1, 0)


def test_audit_is_a_public_module() -> None:
    """`perdure.audit` has what its documentation names."""
    from perdure import audit

    assert all(hasattr(audit, name) for name in audit.__all__)
    assert asyncio.iscoroutinefunction(AuditLog.bounds)


def test_the_columns_of_a_record_are_its_properties() -> None:
    """What is copied without being parsed is what the property gives, secrets masked."""

    async def told(harness: OneOwner) -> None:
        log = await some(harness)
        await harness.call("d", "add", 3, "a note with a \\ and a token=sk-2")
        for topic in Topic:
            for record in await all_of(log, topics=(topic,)):
                row = dict(zip(COLUMNS, row_of(record), strict=True))
                for name in COLUMNS:
                    value = getattr(record, {"puts": "values", "path": "shown_path"}.get(name, name))
                    if COLUMNS.index(name) <= COLUMNS.index("cleared"):
                        assert row[name] == value
                    else:
                        shown = json.loads(row[name]) if row[name] is not None else type(value)()
                        assert shown == json_preview(value) or (value is None and row[name] is None), name
                assert "sk-" not in str(row)

    story(Purse, told)
