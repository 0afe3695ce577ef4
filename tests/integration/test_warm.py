"""A forked `perdure` is a process like an executed one (warm.py)."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests import warm
from tests.process import COMMAND, clean_environ, run, serve

pytestmark = pytest.mark.skipif(not warm.can_start(clean_environ()), reason="perdure is not forked here")
WORDS = (("--version",), ("config", "show", "."), ("serve", "--port", "x"), ("no-such-command",))


@pytest.mark.parametrize("arguments", WORDS, ids=" ".join)
def test_it_prints_and_ends_as_an_executed_one(arguments: tuple[str, ...], counter: Path) -> None:
    """The same texts on the same files, and the same exit code, in the given directory and environment."""
    environ = {"PERDURE_PORT": "4711"}
    executed = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environ(**environ),
        cwd=counter.parent,
    )
    forked = run(*arguments, environ=environ, cwd=counter.parent)
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        executed.returncode,
        executed.stdout,
        executed.stderr,
    )


def test_it_is_a_child_in_a_session_of_its_own(counter: Path, tmp_path: Path) -> None:
    """It can be waited for, its group can be signalled, and a signal that ends it shows in its exit code."""
    with serve(counter, tmp_path / "data") as server:
        assert isinstance(server.process, warm.Forked)
        stat = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        assert [int(each) for each in stat[1:4]] == [os.getpid(), server.pid, server.pid]
        assert server.process.poll() is None
        os.killpg(server.pid, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL


@pytest.mark.parametrize("name", ["PYTHONHASHSEED", "LC_ALL", "TZ"])
def test_what_is_read_at_the_start_of_a_process_is_not_forked(name: str) -> None:
    """Its value is not the one that the parent of the forks was started with."""
    assert not warm.can_start(clean_environ(**{name: "7"}))
