"""The members of an app, by their heartbeats: who is there, who is gone, the same for all who read them."""

from __future__ import annotations

from random import Random

import pytest

from perdure.schemas.seal import Seal
from perdure.streams.log.base import LogRecord
from perdure.streams.placement import members as membership
from perdure.streams.placement.beats import Beat, Served, beat_record, is_beat, parse_beat
from perdure.streams.placement.members import SILENT_TICKS, Members


def beat(name: str, tick: int = 1, *, home: str = "", left: bool = False) -> Beat:
    return Beat(name, f"node-{name}", "host", 1, home or name, tick, left=left)


def names(members: Members) -> list[str]:
    return [each.member for each in members.beats]


def test_a_member_is_gone_after_so_many_seconds_of_another_one() -> None:
    """Counted by the other's ticks alone, from its own last heartbeat on."""
    members = Members()
    members.apply(beat("a", 10))
    members.apply(beat("b", 500))
    members.apply(beat("a", 11))
    for tick in range(501, 500 + SILENT_TICKS):
        members.apply(beat("b", tick))
        assert names(members) == ["a", "b"]
    members.apply(beat("b", 500 + SILENT_TICKS))
    assert names(members) == ["b"]
    assert members.is_gone("a")
    assert not members.apply(beat("a", 12)), "what it says afterwards does not count"
    assert names(members) == ["b"]


def test_heartbeats_out_of_turn_do_not_shorten_the_time() -> None:
    """A member may say at once what has changed: only its seconds count."""
    members = Members()
    members.apply(beat("a"))
    for _ in range(10 * SILENT_TICKS):
        members.apply(beat("b", 3))
    assert names(members) == ["a", "b"]


def test_alone_no_member_is_taken_for_gone() -> None:
    """Nobody counts for it, however long the log was silent."""
    members = Members()
    members.apply(beat("a", 1))
    members.apply(beat("a", 10_000))
    assert names(members) == ["a"]


def test_a_member_that_leaves_or_whose_data_directory_another_has_is_gone_at_once() -> None:
    """Nothing is waited for: the data directory is locked, so its earlier process has ended."""
    members = Members()
    members.apply(beat("a", home="here"))
    members.apply(beat("b"))
    members.apply(beat("c", home="here"))
    assert names(members) == ["b", "c"]
    members.apply(beat("b", left=True))
    assert names(members) == ["c"]
    assert members.is_gone("a")
    assert members.is_gone("b")


def test_only_what_concerns_partitions_is_a_change() -> None:
    """A plan need not be made for each tick."""
    members = Members()
    assert members.apply(beat("a", 1))
    assert not members.apply(beat("a", 2))
    assert members.apply(Beat("a", "node-a", "host", 1, "a", 2, {1: Served(4, 9)}))


def _story(seed: int) -> list[Beat]:
    random, ticks = Random(seed), dict.fromkeys("abcd", 0)
    story = []
    for _ in range(random.randrange(10, 80)):
        name = random.choice("abcd")
        ticks[name] += random.random() < 0.8
        story.append(beat(name, ticks[name], left=random.random() < 0.02))
    return story


def check_readers_agree(seed: int) -> None:
    """One that has read from the beginning and one that joins late agree once all have been heard again."""
    early, late, story = Members(), Members(), _story(seed)
    start = Random(seed).randrange(len(story))
    for at, each in enumerate(story):
        early.apply(each)
        if at >= start:
            late.apply(each)
    ticks = {each.member: each.tick for each in story}
    for _ in range(3 * SILENT_TICKS):
        for name in sorted(ticks):
            if early.is_gone(name):  # it reads so, and joins under another name
                del ticks[name]
                name += "+"
            ticks[name] = ticks.get(name, 0) + 1
            early.apply(beat(name, ticks[name]))
            late.apply(beat(name, ticks[name]))
    assert sorted(names(early)) == sorted(names(late)), f"seed {seed}"
    assert set(names(early)) == set(ticks)


def _all_readers_agree() -> None:
    for seed in range(300):
        check_readers_agree(seed)


def test_readers_that_began_at_different_places_agree_in_the_end() -> None:
    """Also where a member that is gone for one of them has made another one gone for the other."""
    _all_readers_agree()


def test_a_planted_bug_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that are never taken for gone."""
    monkeypatch.setattr(membership, "SILENT_TICKS", 1_000)
    with pytest.raises(AssertionError):
        _all_readers_agree()


def test_a_heartbeat_is_read_as_it_was_sent() -> None:
    """And other records of the topic are none."""
    sent = Beat("a", "n", "h", 3, "home", 4, {1: Served(5, 6, "damage")}, {2: 7}, True)
    record = beat_record(sent, Seal("s" * 32))
    read = LogRecord(0, 0, record.key, record.value, record.headers)
    assert is_beat(read)
    assert parse_beat(read) == sent
    assert Seal("s" * 32).holds(read.key, read.value, read.headers)
    assert not is_beat(LogRecord(0, 0, b"nodes", b"x", ()))
    assert parse_beat(LogRecord(0, 0, b"nodes", b"", record.headers[:1])) is None
    assert parse_beat(LogRecord(0, 0, b"nodes", b"", (("node", b"x"),))) is None
