"""What another app's class is read as: sorted by our partitions, in entries of
bounded size, and let go of if it cannot be.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from perdure.schemas.commands import NOBODY
from perdure.schemas.config import Config, parse_config
from perdure.schemas.effects import AlarmChange
from perdure.schemas.errors import ConfigError
from perdure.schemas.journal import NO_COMMAND, Entry, NoOp
from perdure.schemas.keys import object_key, partition_of
from perdure.schemas.migrations import Step
from perdure.schemas.replies import OK, Reply
from perdure.schemas.values import encode_value
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.journal.reader import Position
from perdure.streams.opening import open_data, start_embedded
from perdure.streams.state.tables import Tables
from perdure.streams.store.memory import MemoryStore
from perdure.streams.transfer import export_objects as source_module
from perdure.streams.transfer.export_objects import ForeignObjects
from perdure.streams.transfer.foreign_app import ForeignApps

APP = 'name = "ours"\n[[migrations]]\ntag = "v1"\ntransferred_classes = [{%s}]\n'
STEP = Step("v1", transferred=(("Counter", "Counter", "theirs"),))


def tables(objects: dict[str, dict[str, Any]], alarms: dict[str, list[str]] | None = None) -> Tables:
    """One partition of another app, with these objects of its namespace `Theirs`."""
    made = Tables(MemoryStore(), 0)
    entries = [
        Entry(
            at,
            object_key("Theirs", name),
            1_000 + at,
            OK,
            Reply(OK, 204),
            {each: encode_value(each, value) for each, value in values.items()},
            reply_to=NOBODY,
            alarms=tuple(AlarmChange(each, 5_000) for each in (alarms or {}).get(name, ())),
        )
        for at, (name, values) in enumerate(objects.items())
    ]
    made.applied(entries, NoOp(0, 0), Position(len(entries)))
    return made


async def source_of(*all_of_them: Tables, partitions: int = 3) -> ForeignObjects:
    source = ForeignObjects("theirs", "Theirs", "Ours", all_of_them, partitions)
    await source.find()
    return source


def test_each_object_goes_into_the_one_partition_it_belongs_to() -> None:
    """Whatever partition it is in over there; all partitions together hold each once."""
    names = [f"n{number}" for number in range(40)]
    halves = [tables({name: {"v": name} for name in names[at::2]}) for at in (0, 1)]
    source = asyncio.run(source_of(*halves))
    found: list[str] = []
    for partition in range(3):
        entries = list(source.entries(partition))
        assert source.count(partition) == len(entries)
        assert all(partition_of(each.key, 3) == partition for each in entries)
        assert all(each.command == NO_COMMAND and not each.clear for each in entries)
        found += [each.key.removeprefix("Ours/") for each in entries]
    assert sorted(found) == sorted(names)


def test_no_entry_is_larger_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and alarms are spread over as many as it takes, in order; one that is
    larger alone has one alone.
    """
    monkeypatch.setattr(source_module, "ENTRY_BYTES", 300)
    values = {f"v{number}": "x" * 100 for number in range(5)} | {"w": "y" * 1_000}
    alarms = [f"alarm{number}" for number in range(9)]
    source = asyncio.run(source_of(tables({"a": values}, {"a": alarms}), partitions=1))
    entries = list(source.entries(0))
    assert [len(each.puts) for each in entries] == [2, 2, 1, 1, 0, 0, 0]
    assert [len(each.alarms) for each in entries] == [0, 0, 0, 0, 4, 4, 1]
    assert {name for each in entries for name in each.puts} == values.keys()
    assert [alarm.name for each in entries for alarm in each.alarms] == alarms


def test_while_a_large_app_is_looked_through_the_loop_goes_on() -> None:
    """Partitions that serve answer meanwhile."""

    async def main() -> int:
        turns, over = 0, False

        async def others() -> None:
            nonlocal turns
            while not over:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        await asyncio.sleep(0)
        await source_of(tables({f"n{number}": {"v": 1} for number in range(1_000)}))
        over = True
        await beside
        return turns

    assert asyncio.run(main()) > 10


def config_of(tmp_path: Path, asked: str) -> Config:
    return parse_config(APP % asked, str(tmp_path / "perdure.toml"), environ={})


async def elsewhere(path: Path, *, ran: bool = True) -> None:
    """An app that has this directory and no objects; only if it `ran`, also a log."""
    other = Config(name="theirs", partitions=2, data_dir=path)
    with closing(open_data(other)) as data:
        if ran:
            log = await start_embedded(other, data)
            await bootstrap_log(log, "theirs", data.app_uuid)
            await log.close()


@pytest.mark.parametrize(
    ("ran", "told"), [(True, "has no object of a class Nobody; it has: none"), (False, "has no log")]
)
def test_what_cannot_be_read_is_told_and_let_go_of(tmp_path: Path, ran: bool, told: str) -> None:
    """To each partition the same; then the other app may be run again, and nothing of it is left here."""

    async def main() -> None:
        await elsewhere(tmp_path / "theirs", ran=ran)
        asked = f'from = "Nobody", from_script = "theirs", to = "Counter", data = "{tmp_path / "theirs"}"'
        transfers = ForeignApps(config_of(tmp_path, asked), tmp_path / "scratch", 4)
        for _ in range(3):
            with pytest.raises(ConfigError, match=told):
                await transfers.check(STEP, "Counter")
        await transfers.close()
        await elsewhere(tmp_path / "theirs")
        assert not (tmp_path / "scratch").exists()

    asyncio.run(main())


def test_one_directory_spelt_in_two_ways_is_opened_once(tmp_path: Path) -> None:
    """It is locked: a second time it would be in use, by this very process."""

    async def main() -> None:
        await elsewhere(tmp_path / "theirs")
        asked = [
            f'{{from = "{name}", from_script = "theirs", to = "{name}", data = "{tmp_path / way}"}}'
            for name, way in (("A", "theirs"), ("B", "theirs/../theirs"))
        ]
        config = parse_config(
            APP.replace("{%s}", ", ".join(asked)), str(tmp_path / "perdure.toml"), environ={}
        )
        transfers = ForeignApps(config, tmp_path / "scratch", 4)
        for name in ("A", "B"):
            transfers._wrong = None  # neither class is there
            with pytest.raises(ConfigError, match=f"has no object of a class {name}"):
                await transfers.check(Step("v1", transferred=((name, name, "theirs"),)), name)
        await transfers.close()

    asyncio.run(main())
