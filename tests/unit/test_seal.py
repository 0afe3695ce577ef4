"""The app's secret: what it seals counts, over a rotation and an upgrade; what others make does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.one_owner import OneOwner, story
from tests.unit.owners import Owners
from tests.unit.owners import story as realm_story
from tests.unit.test_sends import Thing as Sender

from perdure.objects.durable import DurableObject
from perdure.schemas.commands import CALL, LOCAL, Command, sealed_record
from perdure.schemas.config import Config, masked, parse_config
from perdure.schemas.errors import ConfigError, DataDirError, LogCorrupt
from perdure.schemas.journal import Claim, decode_record
from perdure.schemas.seal import Seal, id_of, secrets_in
from perdure.streams import secret as sealing
from perdure.streams.journal.bootstrap import append_one, bootstrap_log
from perdure.streams.log.base import Headers, Record, Topic
from perdure.streams.turns.ports import UNSEALED, OwnerState
from perdure.streams.virtual_time import VirtualLoop

UUID = "app-uuid"  # as the harness has it
OLD, NEW, OTHER = ("x" * 32, "y" * 32, "z" * 32)


class Thing(DurableObject):
    async def add(self, by: int = 1) -> int:
        count: int = await self.state.get("count", 0) + by
        await self.state.put("count", count)
        return count


def asked(seal: Callable[[bytes, bytes, Headers], Headers], n: int = 1) -> Record:
    """A call with a principal, sealed in some way."""
    body = b'{"method":"add","args":[%d]}' % n
    command = Command("Thing/a", CALL, "add", body=body, id=f"i{n}", reply_to=LOCAL, principal="alice")
    key, value, headers = sealed_record(command, UNSEALED)
    return Record(key, value, seal(key, value, headers[:-1]))


def as_before(key: bytes, value: bytes, headers: Headers) -> Headers:
    """The seal of a version without a secret: keyed with the uuid."""
    secret = blake2b(UUID.encode(), digest_size=32).digest()
    made = blake2b(msgspec.msgpack.encode((key, value, headers)), digest_size=16, key=secret).digest()
    return (*headers, ("seal", made))


RECORDS = st.tuples(
    st.none() | st.binary(max_size=20),
    st.none() | st.binary(max_size=40),
    st.lists(st.tuples(st.sampled_from(["kind", "principal", "id"]), st.binary(max_size=10)), max_size=4),
)


@given(RECORDS, RECORDS, st.booleans())
def test_a_seal_holds_for_its_record_and_secrets_alone(left: Any, right: Any, upgrading: bool) -> None:
    """Over a rotation; not for another record, app, or secret, nor for the uuid,
    unless the record is older than the secret.
    """
    record = (*left[:2], tuple(left[2]))
    old = Seal(OLD, app="shop")
    headers = old.sealed(*record)
    for seal in (old, Seal(NEW, OLD, app="shop"), Seal(NEW, OTHER, OLD, app="shop")):
        assert seal.holds(*record[:2], headers, founding=upgrading)
        renewed = seal.renewed(*record[:2], headers)
        assert id_of(renewed) == seal.id
        assert seal.holds(*record[:2], renewed)
    for seal in (Seal(NEW, app="shop"), Seal(OLD, app="other"), Seal(OTHER, NEW, app="shop", founding=OLD)):
        assert not seal.holds(*record[:2], headers, founding=upgrading)
    if right != left:
        assert not old.holds(*right[:2], old.sealed(*record)[-1:] + tuple(right[2]), founding=upgrading)
    by_uuid = as_before(*record)
    assert Seal(NEW, founding=UUID).holds(*record[:2], by_uuid, founding=upgrading) == upgrading
    assert not Seal(NEW, founding="another").holds(*record[:2], by_uuid, founding=upgrading)
    assert not Seal(NEW).holds(*record[:2], by_uuid, founding=upgrading)


def test_nothing_shows_a_secret() -> None:
    """Its id says which it is, and is not made from the text alone."""
    seal = Seal(OLD, NEW, app="shop")
    assert len(set(seal.ids)) == 2
    assert Seal(OLD, app="other").id != seal.id
    assert OLD not in repr(seal) + "".join(seal.ids)


def test_an_upgrade_takes_what_was_sealed_before_and_nothing_of_that_kind_after() -> None:
    """Undone commands under the uuid run; one that comes later is a forgery, over restarts and rebuilds."""

    async def told(harness: OneOwner) -> None:
        assert harness.value("a", "count") == 1  # what the version before had left
        harness.append(asked(as_before, 10))
        harness.append(asked(harness.seal.sealed, 100))
        await harness.until(lambda: harness.value("a", "count") == 101)
        assert harness.owner.counts.dead == 1
        for _ in range(2):
            await harness.end()
            await append_one(harness.log, 0, Claim("a", "adopt", "host", 1))  # only ends a reign
            await harness.begin()
            harness.append(asked(as_before, 1000))
            await harness.until(lambda: harness.owner.counts.dead == 1)
        assert harness.value("a", "count") == 101
        claims = [decode_record(each.value) for each in await harness.records(Topic.JOURNAL)]
        froms = [each.sealed_from for each in claims if isinstance(each, Claim)]
        assert froms == [-1, 1, -1, 1, -1, 1]

    async def main(harness: OneOwner) -> None:
        await bootstrap_log(harness.log, "app", UUID)
        await append_one(harness.log, 0, Claim("u", "n"))  # as the version before writes it
        harness.append(asked(as_before, 1))
        harness.seal = Seal(NEW, founding=UUID)
        await harness.begin()
        await harness.until(lambda: harness.owner.idle)
        await told(harness)
        await harness.check()
        await harness.end()

    async def whole() -> None:
        await main(OneOwner({"Thing": Thing}, shared=True))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(whole())


def test_a_new_app_takes_no_seal_but_its_own() -> None:
    """There is nothing older than its secret."""

    async def told(harness: OneOwner) -> None:
        await harness.end()
        harness.seal = Seal(NEW, founding=UUID)
        await harness.begin()
        harness.append(asked(as_before))
        harness.append(asked(Seal(OLD).sealed))
        await harness.until(lambda: harness.owner.counts.dead == 2)
        assert harness.value("a", "count") is None

    story(Thing, told, shared=True)


async def _crashed_with_sends(harness: Owners) -> tuple[str, str]:
    """Sends sealed with OLD: one is on the log and not done, the others were not acknowledged."""
    await harness.crash()
    harness.seal = Seal(OLD)
    await harness.begin()
    a, b = harness.name_in(0, "a"), harness.name_in(1, "b")
    harness.send(a, "post", [b], [1, 2, 3])
    await harness.until(lambda: harness.seen.count((b, 1)) == 1)
    await harness.crash()
    return a, b


def test_a_rotated_secret_loses_nothing_that_is_under_way() -> None:
    """With the previous one still known each send arrives once; what the journal
    holds goes under the new seal.
    """

    async def told(harness: Owners) -> None:
        _, b = await _crashed_with_sends(harness)
        harness.seal = Seal(NEW, OLD)
        await harness.begin()
        await harness.until(lambda: harness.value(b, "marks") == [1, 2, 3])
        await harness.quiet()
        assert harness.value(b, "marks") == [1, 2, 3]
        assert harness.seen.count("sent") == 1

    realm_story(Sender, told, shared=True)


def test_without_the_secret_of_what_is_under_way_a_node_does_not_start() -> None:
    """It says which secret is missing, and drops nothing; with it, or once it is
    known to be lost, it starts.
    """

    async def told(harness: Owners) -> None:
        _, b = await _crashed_with_sends(harness)
        harness.seal = Seal(NEW)
        with pytest.raises(TimeoutError):
            await harness.begin()
        stopped = [owner for owner in harness.owners if owner.state is OwnerState.STOPPED]
        assert [owner.partition for owner in stopped] == [1]
        message = str(stopped[0].error)
        assert isinstance(stopped[0].error, ConfigError)
        assert f"sealed with the app's secret {Seal(OLD).id}, which this node does not have" in message
        assert OLD not in message
        await harness.crash()
        harness.seal = Seal(NEW, lost=[Seal(OLD).id])
        await harness.begin()
        dead = harness.broker.streams[Topic.DEAD, 1]
        await harness.until(lambda: dead.end >= 1)
        await harness.until(
            lambda: bool(harness.value(b, "marks"))
        )  # those that the journal had were sealed again
        await harness.quiet()

    realm_story(Sender, told, shared=True)


def test_texts_of_secrets(tmp_path: Path) -> None:
    """One a line, or with commas; a short one is refused, and none is quoted."""
    assert secrets_in(f"# a comment\n{NEW} # now\n\n{OLD}, {OTHER}\n") == (NEW, OLD, OTHER)
    for text in ("", "# nothing", "sw0rdfish", f"{NEW},sw0rdfish"):
        with pytest.raises(ValueError, match="secret") as refused:
            secrets_in(text)
        assert "sw0rdfish" not in str(refused.value)


def test_the_secret_comes_from_the_environment_or_a_file_and_is_shown_nowhere(tmp_path: Path) -> None:
    """Not from the configuration itself."""
    config = parse_config("", "perdure.toml", environ={"PERDURE_SEAL_SECRET": f"{NEW},{OLD}"})
    assert sealing.configured(config) == (NEW, OLD)
    assert NEW not in str(masked(config)) + repr(config)
    (tmp_path / "sealed").write_text(NEW)
    config = parse_config('seal_secret_file = "sealed"', str(tmp_path / "perdure.toml"))
    assert sealing.configured(config) == (NEW,)
    assert sealing.configured(Config()) is None
    (tmp_path / "sealed").write_text("sw0rdfish")
    for error, text in (
        ("seal_secret", f'seal_secret = "{NEW}"'),
        ("seal_secret_file", 'seal_secret_file = "sealed"'),
    ):
        with pytest.raises(ConfigError, match=error) as refused:
            sealing.configured(parse_config(text, str(tmp_path / "perdure.toml")))
        assert NEW not in str(refused.value)
        assert "sw0rdfish" not in str(refused.value)
    with pytest.raises(ConfigError, match="PERDURE_SEAL_SECRET") as refused:
        parse_config("", "perdure.toml", environ={"PERDURE_SEAL_SECRET": "sw0rdfish"})
    assert "sw0rdfish" not in str(refused.value)


def test_a_data_directory_gets_a_secret_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Made once, for its owner's eyes; replaced, the previous two are kept; a damaged one is named."""
    first = sealing.seal_of(Config(), tmp_path, UUID)
    file = tmp_path / "secret"
    assert file.stat().st_mode & 0o777 == 0o600
    assert sealing.seal_of(Config(), tmp_path, UUID).ids == first.ids
    assert sealing.seal_of(Config(name="other"), tmp_path, UUID).id != first.id
    for count in (2, 3, 3):
        assert len(sealing.rotate(tmp_path)) == count
    assert file.stat().st_mode & 0o777 == 0o600
    assert first.id not in sealing.seal_of(Config(), tmp_path, UUID).ids
    assert caplog.text == ""
    file.chmod(0o644)
    sealing.kept_in(tmp_path)
    assert "can be read by others" in caplog.text
    file.write_text("sw0rdfish")
    with pytest.raises(DataDirError, match="restore it") as refused:
        sealing.kept_in(tmp_path)
    assert "sw0rdfish" not in str(refused.value)


def test_no_error_shows_the_uuid() -> None:
    """A log of another app is refused with prints of both."""

    async def whole() -> None:
        harness = OneOwner({"Thing": Thing})
        await bootstrap_log(harness.log, "app", "the-uuid-of-another")
        await harness.begin(OwnerState.STOPPED)
        assert isinstance(harness.owner.error, LogCorrupt)
        message = str(harness.owner.error)
        assert "the-uuid-of-another" not in message
        assert UUID not in message
        assert message.count("#") == 2
        with pytest.raises(ConfigError) as refused:
            await bootstrap_log(harness.log, "other", UUID)
        assert "uuid" not in str(refused.value)
        await harness.end()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(whole())
