"""The clocks that tests move: the time of day of another process jumps, the time that passes does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.clocks import Clock

PROGRAM = """
import sys, time
from datetime import datetime
for line in sys.stdin:
    print(time.time(), time.monotonic(), datetime.now().timestamp(), flush=True)
"""


def test_the_wall_clock_of_another_process_jumps(tmp_path: Path) -> None:
    """Ahead and back again, at once; its monotonic clock stays with this process's."""
    clock = Clock(tmp_path / "clock")
    if not clock.can_move:
        pytest.skip("needs Linux and gcc")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **clock.environ}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        for ahead_s in (0, 3_600, -90, 0):
            clock.set_ahead(ahead_s)
            before_s, passed_s = time.time(), time.monotonic()
            process.stdin.write("\n")
            process.stdin.flush()
            wall_s, monotonic_s, again_s = map(float, process.stdout.readline().split())
            assert 0 <= monotonic_s - passed_s <= time.monotonic() - passed_s
            assert -1 < wall_s - ahead_s - before_s < 1 + time.time() - before_s
            assert wall_s - 0.001 < again_s < wall_s + 1 + time.time() - before_s
        process.stdin.close()
