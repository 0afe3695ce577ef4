"""Dead letters: listed, shown, and driven again once."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from tests.unit.owners import Owners, story

from perdure.api.admin.dead import dead_letter, dead_letters, redrive_letter
from perdure.api.cli import main
from perdure.objects.durable import DurableObject
from perdure.schemas.errors import MalformedCommand, NotParked, TooLarge
from perdure.schemas.foreign import EventRule, RecordRules
from perdure.streams.log.base import Record, Topic

EVENT = (("ce_specversion", b"1.0"), ("ce_id", b"7"), ("ce_source", b"/s"), ("ce_type", b"added"))


class Thing(DurableObject):
    """Counts."""

    async def add(self, by: int = 1) -> int:
        count: int = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        return count


def rule(harness: Owners, events: dict[str, EventRule]) -> None:
    """Let the owners map events so from now on."""
    for owner in harness.owners:
        object.__setattr__(owner.ports.transport, "rules", RecordRules("app", (), events))


def test_a_letter_is_shown_with_its_reason_and_origin() -> None:
    """Page by page, partition by partition."""

    async def told(harness: Owners) -> None:
        for n in range(3):
            harness.log.append(Topic.COMMANDS, n, Record(b"Thing/a", b"no json %d" % n, (("x", b"\xff"),)))
        await harness.quiet()
        first = await dead_letters(harness.owners, {"limit": "2"})
        assert [each["id"] for each in first["dead"]] == ["0:0", "1:0"]
        rest = await dead_letters(harness.owners, {"limit": "2", "cursor": first["cursor"]})
        assert ([each["id"] for each in rest["dead"]], rest["cursor"]) == (["2:0"], None)
        (row,) = rest["dead"]
        assert (row["object"], row["command"], row["topic"]) == ("Thing/a", "2:0", "commands")
        assert row["reason"].startswith("malformed-command: the body is not JSON")
        assert row["time_ms"] >= 1_700_000_000_000
        whole = await dead_letter(harness.owners, "2:0")
        assert (whole["value"], whole["key"]) == ("no json 2", "Thing/a")
        assert whole["headers"] == {"x": {"$bytes": "ff"}}
        for id_, error in (("2:1", NotParked), ("9:0", MalformedCommand), ("x", MalformedCommand)):
            with pytest.raises(error):
                await dead_letter(harness.owners, id_)

    story(Thing, told)


@pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])
def test_a_letter_that_is_driven_again_takes_effect_once(shared: bool) -> None:
    """When what was wrong has been mended; wherever the record was, and however often it is driven."""

    async def told(harness: Owners) -> None:
        home = harness.place("a")
        away = (home + 1) % harness.partitions
        for partition in (home, away):
            record = Record(b"Thing/a", b'{"v": 1}', (*EVENT[:1], ("ce_id", b"%d" % partition), *EVENT[2:]))
            harness.log.append(Topic.COMMANDS, partition, record)
        await harness.quiet()
        rule(harness, {"added": EventRule("add", "arguments")})
        letters = (await dead_letters(harness.owners, {}))["dead"]
        assert len(letters) == 2
        for _ in range(2):
            for each in letters:
                done = await redrive_letter(harness.owners, each["id"])
                assert done["command"].partition(":")[0] == each["command"].partition(":")[0]
        await harness.quiet()
        assert harness.value("a") is None  # add(v=1): it has no such argument
        rule(harness, {"added": EventRule("add", "argument")})
        assert len((await dead_letters(harness.owners, {}))["dead"]) == 2

    story(Thing, told, shared=shared)


def test_a_record_without_a_key_gets_one_when_it_is_driven_again() -> None:
    """So that an operator who is not sure may drive it twice."""

    async def told(harness: Owners) -> None:
        record = Record(b"Thing/a", b"5", (*EVENT[:3], ("ce_type", b"other")))
        harness.log.append(Topic.COMMANDS, harness.place("a"), record)
        plain = Record(b"Gone/a", b'{"method": "add"}')
        harness.log.append(Topic.COMMANDS, 0, plain)
        await harness.quiet()
        rule(harness, {"other": EventRule("add")})
        for each in (await dead_letters(harness.owners, {}))["dead"]:
            for _ in range(3):
                await redrive_letter(harness.owners, each["id"])
        await harness.quiet()
        assert harness.value("a") == 5
        sent = [each for each in await harness.records(Topic.COMMANDS, 0) if each.key == b"Gone/a"]
        keys = [dict(each.headers).get("idempotency-key", b"") for each in sent]
        assert keys[0] == b""
        assert {key[:7] for key in keys[1:]} == {b"dead:0:"}
        assert {name for each in sent for name, _ in each.headers} == {"idempotency-key"}

    story(Thing, told)


def test_a_letter_with_the_beginning_of_its_record_only_is_not_driven_again() -> None:
    """There is nothing whole to append."""

    async def told(harness: Owners) -> None:
        harness.log.append(Topic.COMMANDS, 0, Record(b"Thing/a", b"x" * (9 << 20)))
        await harness.quiet()
        with pytest.raises(TooLarge, match="only the beginning"):
            await redrive_letter(harness.owners, "0:0")

    story(Thing, told)


def test_the_commands_of_the_cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """They ask for these paths, and print rows or JSON."""
    requests: list[tuple[str, str]] = []
    row = {"id": "0:3", "object": "Counter/a", "reason": "bad", "command": "0:17"}

    def answer(method: str, url: str, **_: Any) -> httpx.Response:
        requests.append((method, url.partition("/admin/")[2]))
        return httpx.Response(200, json={"dead": [row], "cursor": None} if url.endswith("dead") else row)

    monkeypatch.setattr(httpx, "request", answer)
    for arguments in (["list"], ["list", "--json"], ["show", "0:3"], ["redrive", "0:3", "--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["dead", *arguments])
        assert ended.value.code == 0
    assert requests == [
        ("GET", "dead"),
        ("GET", "dead"),
        ("GET", "dead/0%3A3"),
        ("POST", "dead/0%3A3/redrive"),
    ]
    out = capfd.readouterr().out
    assert out.startswith("id=0:3  object=Counter/a  reason=bad")
    assert json.loads(out[out.rindex("{\n") :]) == row
