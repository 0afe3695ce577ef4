"""Every command of `perdure`: its `--help` has an example that the parser takes,
and it prints its result as JSON.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup, TyperOption
from typer.testing import CliRunner

from perdure.api.cli import app
from perdure.schemas.errors import ConfigError

NO_RESULT = {"dev"}  # it serves until it is stopped, for a person at a terminal
EXAMPLE = re.compile(r"Example: `(?:export \w+=\$\()?perdure ([^`>)]+)\)?[^`]*`")


def commands(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ROOT = typer.main.get_command(app)
assert isinstance(ROOT, TyperGroup)
ALL = dict(commands(ROOT))
EACH = pytest.mark.parametrize("path", ALL, ids=" ".join)


@EACH
def test_the_help_of_a_command_says_what_it_does_and_shows_an_example(path: tuple[str, ...]) -> None:
    """The example is of this command, and all of its options are there."""
    command = ALL[path]
    printed = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert printed.exit_code == 0
    assert command.help
    assert "Example: " in printed.output
    match = EXAMPLE.search(command.epilog or "")
    assert match is not None, command.epilog
    words = shlex.split(match[1])
    assert tuple(words[: len(path)]) == path
    with command.make_context("x", words[len(path) :], resilient_parsing=True) as context:
        assert not context.args, f"the command does not know {context.args}"
    given = [word for word in words if word.startswith("-")]
    known = {option for each in command.params for option in each.opts}
    assert set(given) <= known


@EACH
def test_a_command_with_a_result_has_json(path: tuple[str, ...]) -> None:
    """A flag, that is said in its help in whole words."""
    options = {option: each for each in ALL[path].params for option in each.opts}
    if path[0] in NO_RESULT:
        assert "--json" not in options
        return
    option = options["--json"]
    assert isinstance(option, TyperOption)
    assert option.is_flag
    assert option.help
    assert "JSON" in option.help


def test_all_options_of_a_command_have_help() -> None:
    """Those that are not hidden."""
    without = [
        (" ".join(path), each.name)
        for path, command in ALL.items()
        for each in command.params
        if isinstance(each, TyperOption) and not each.hidden and not each.help
    ]
    assert without == []


def test_init_says_what_it_made_as_json(tmp_path: Path) -> None:
    """What is made, what was there, and what is not made because it is about another app.py."""
    there = Path.cwd()
    os.chdir(tmp_path)
    try:
        first = json.loads(CliRunner().invoke(app, ["init", "shop", "--json"]).stdout)
        again = json.loads(CliRunner().invoke(app, ["init", "shop", "--force", "--json"]).stdout)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "app.py").write_text("x = 1\n")
        mine = json.loads(CliRunner().invoke(app, ["init", "mine", "--force", "--json"]).stdout)
    finally:
        os.chdir(there)
    files = sorted(
        str(each.relative_to(tmp_path / "shop")) for each in (tmp_path / "shop").rglob("*") if each.is_file()
    )
    assert first == {
        "app": "shop",
        "folder": str(tmp_path / "shop"),
        "made": files,
        "left": [],
        "not_made": [],
    }
    assert (again["made"], sorted(again["left"])) == ([], files)
    assert mine["left"] == ["app.py"]
    assert mine["not_made"] == ["README.md", "tests/test_app.py"]
    assert sorted(mine["made"] + mine["left"] + mine["not_made"]) == files


@pytest.mark.parametrize(
    "words",
    [
        "doctor kafka://127.0.0.1:1",
        "rescale {} --partitions 4 --log kafka://127.0.0.1:1",
        "state adopt {} --log kafka://127.0.0.1:1",
    ],
)
def test_a_missing_kafka_client_is_named_with_the_line_that_installs_it(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with a traceback, whichever command needs it."""
    (tmp_path / "app.py").write_text("from perdure import DurableObject\n\n\nclass A(DurableObject): ...\n")
    monkeypatch.setattr("perdure.streams.opening.find_spec", lambda _: None)
    result = CliRunner().invoke(app, words.format(tmp_path / "app.py").split())
    problem = result.exception
    shown = str(problem) if isinstance(problem, ConfigError) else result.output
    assert "needs the Kafka client, which is not installed: pip install 'aiokafka" in shown
