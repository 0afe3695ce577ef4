"""Poison: which command is charged when the process dies, and what becomes of one
that was charged too often.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.one_owner import OneOwner, story
from tests.unit.test_owner import Thing, code, marks, result

from perdure.api.problems import problem_of_reply
from perdure.objects.overlay import current_turn
from perdure.schemas.commands import LOCAL, NOBODY
from perdure.schemas.errors import DataDirError
from perdure.schemas.replies import PARKED
from perdure.streams.log.base import Topic
from perdure.streams.turns.ports import PartitionBounds
from perdure.streams.turns.supervision.crash_marker import CHARGES, CrashMarker, place_of, word_of

DIES = """
import sys, os, signal
from pathlib import Path
from perdure.streams.turns.supervision.crash_marker import CrashMarker, word_of
page = CrashMarker(Path(sys.argv[1]))
page.now[0] = 0 if sys.argv[2] == "-" else word_of(int(sys.argv[2]), int(sys.argv[3]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def die(path: Path, *running: int) -> None:
    """A process that is killed while it runs this command, or none."""
    words = [str(each) for each in running] or ["-"]
    subprocess.run([sys.executable, "-c", DIES, str(path), *words], check=False, timeout=60)


def charges(path: Path) -> dict[tuple[int, int], int]:
    page = CrashMarker(path)
    found = page.charges
    page.close()
    return found


def test_whoever_ran_when_the_process_was_killed_is_charged_once(tmp_path: Path) -> None:
    """By the next start, which clears the page; charges of several deaths add up, and nobody else has any."""
    path = tmp_path / "poison"
    die(path, 3, 17)
    assert [charges(path), charges(path)] == [{(3, 17): 1}] * 2
    die(path)
    die(path, 0, 0)
    die(path, 3, 17)
    assert charges(path) == {(3, 17): 2, (0, 0): 1}
    page = CrashMarker(path)
    assert [page.charged(partition, 18) for partition in (3, 0, 1)] == [{17: 2}, {0: 1}, {}]
    page.close()


def test_what_was_lost_with_the_process_is_not_charged(tmp_path: Path) -> None:
    """The log ends before it: whoever gets its offset next is another, at this start and at later ones."""
    path = tmp_path / "poison"
    die(path, 3, 17)
    die(path, 2, 17)
    page = CrashMarker(path)
    assert [page.charged(3, 17), page.charged(2, 18), page.charged(3, 100)] == [{}, {17: 1}, {}]
    page.close()
    assert charges(path) == {(2, 17): 1}


def test_a_death_in_a_turn_is_told_to_the_next_start(tmp_path: Path) -> None:
    """To that one, whether the log has the command or not."""
    path = tmp_path / "poison"
    for running in ((3, 17), (), (0, 0)):
        die(path, *running)
        page = CrashMarker(path)
        assert page.died == bool(running)
        page.close()


def test_old_charges_make_room(tmp_path: Path) -> None:
    """The page has a bound; the latest stay."""
    path = tmp_path / "poison"
    for offset in range(CHARGES + 5):
        page = CrashMarker(path)
        page.now[0] = word_of(1, offset)
        page.close()
    assert charges(path) == {(1, offset): 1 for offset in range(5, CHARGES + 5)}


@pytest.mark.parametrize("place", [(0, 0), (1023, 0), (7, 2**48 - 1), (1023, 2**48 - 1)])
def test_a_word_stands_for_one_command(place: tuple[int, int]) -> None:
    """Of any partition and offset; it is never 0, which stands for none."""
    word = word_of(*place)
    assert 0 < word < 2**60
    assert place_of(word) == place


def test_a_page_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """By its path, before anything runs."""
    (tmp_path / "poison").mkdir()
    with pytest.raises(DataDirError, match=str(tmp_path / "poison")):
        CrashMarker(tmp_path / "poison")


def test_a_command_that_was_charged_too_often_is_parked() -> None:
    """It is not run; an entry says so and its sender is told; those before and behind it run."""

    async def told(harness: OneOwner) -> None:
        offsets = [harness.send(name, "add", name) for name in ("a", "b", "a", "c")]
        replies = await harness.replies(*offsets)
        assert code(replies[0]) == (PARKED, "parked")
        assert [result(each) for each in replies[1:]] == [b'{"result":1}'] * 3
        assert sorted(marks(harness)) == ["a", "b", "c"]
        entries = {each.command: each for each in await harness.journal()}
        assert (entries[offsets[0]].outcome, entries[offsets[0]].puts) == (PARKED, {})
        assert [entries[each].outcome for each in offsets[1:]] == ["ok"] * 3
        assert harness.owner.counts.parked == 1
        assert replies[0].error is not None
        assert "Thing/a" in replies[0].error.message
        assert problem_of_reply(PARKED, replies[0].error)[0] == 500

    charged(told, {0: 3, 1: 2, 3: 1})


def test_a_parked_command_spends_its_key() -> None:
    """Who asks again with the same key is told the same, and nothing runs."""

    async def told(harness: OneOwner) -> None:
        first = await harness.call("a", "add", client_key="k")
        assert code(first) == (PARKED, "parked")
        assert await harness.call("a", "add", client_key="k") == first
        assert marks(harness) == []

    charged(told, {0: 3})


def test_a_parked_command_past_its_deadline_is_parked_all_the_same() -> None:
    """That it killed the process is worth a trace; and how often it may do so is a setting."""

    async def told(harness: OneOwner) -> None:
        reply = await harness.call("a", "add", deadline_ms=0)
        assert code(reply) == (PARKED, "parked")

    charged(told, {0: 1}, bounds=PartitionBounds(charges=1))


def test_a_parked_command_that_nobody_waits_for_leaves_its_entry() -> None:
    """The journal has it, and no reply record is made."""

    async def told(harness: OneOwner) -> None:
        harness.append_raw(b"Thing/a", b'{"method": "add"}', (("reply-to", NOBODY.encode()),))
        await harness.until(lambda: harness.owner.counts.parked)
        await harness.until(lambda: harness.owner.idle)
        assert [each.outcome for each in await harness.journal()] == [PARKED]

    charged(told, {0: 3})


class Asked(Thing):
    """Notes whether its command is on the log when its turn begins."""

    async def look(self) -> None:
        streams = self.env.harness.broker.streams
        self.env.seen.append(streams[Topic.COMMANDS, 0].durable > current_turn.get().offset)


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("waited_for", [False, True])
def test_after_a_death_in_a_turn_what_comes_by_itself_is_durable_before_it_runs(
    careful: bool, waited_for: bool
) -> None:
    """So that it can be charged; what somebody waits for would not come again,
    and costs no more than ever.
    """

    async def told(harness: OneOwner) -> None:
        to = LOCAL if waited_for else NOBODY
        for _ in range(3):
            harness.append_raw(b"Thing/a", b'{"method": "look"}', (("reply-to", to.encode()),))
        await harness.until(lambda: len(harness.seen) == 3)
        assert harness.seen == [careful and not waited_for] * 3

    charged(told, {}, kind=Asked, careful=careful)


def charged(
    told: object,
    offsets: dict[int, int],
    kind: type[Thing] = Thing,
    careful: bool = False,
    **options: object,
) -> None:
    """A story in which these commands of partition 0 were running when the process died, so often."""

    async def begun(harness: OneOwner) -> None:
        await harness.end()
        harness.charged, harness.careful = offsets, careful
        harness.log.kill()
        harness.log = type(harness.log)(harness.broker, frozenset())
        await harness.begin()
        await told(harness)  # type: ignore[operator]  # a story

    story(kind, begun, **options)  # type: ignore[arg-type]  # as story has them
