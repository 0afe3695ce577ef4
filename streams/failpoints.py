"""Named places where a process can be made to die, one beside each step towards durability.

Laws
- An unarmed `hit` does nothing. Where each command passes, `armed` is looked at first: no call.
- `PERDURE_FAILPOINT="name:N"` (read at import) kills this process with SIGKILL when it comes through
  `name` for the N-th time: nothing is cleaned up, exactly as if the power of this process were cut.
- `on_hit` lets a simulation look on or raise at a failpoint, inside the process.
- Call it as `failpoints.hit("name")`, never `from ... import hit`: arming replaces the function.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from perdure.schemas.errors import ConfigError

ENVIRONMENT = "PERDURE_FAILPOINT"


def _nothing(name: str) -> None:
    """What `hit` is while nothing is armed."""


hit: Callable[[str], None] = _nothing
armed = False  # `hit` does something


def arm(spec: str) -> None:
    """Kill this process at the N-th pass of a failpoint; `spec` is `name:N`, N counted from 1 and from now.

    Raises `ConfigError` if `spec` is malformed.
    """
    global hit, armed
    name, _, count = spec.rpartition(":")
    if not name or not count.isdecimal() or int(count) < 1:
        raise ConfigError(f"{ENVIRONMENT}={spec!r} is not a failpoint: write name:N with N from 1")
    left = int(count)

    def kill_at(passed: str) -> None:
        nonlocal left
        if passed == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    hit, armed = kill_at, True


def on_hit(hook: Callable[[str], None] | None) -> None:
    """Call `hook(name)` at every failpoint, on whatever thread comes through; None disarms all.

    What the hook raises is raised there as if the step itself had failed.
    """
    global hit, armed
    hit, armed = (_nothing, False) if hook is None else (hook, True)


if ENVIRONMENT in os.environ:
    arm(os.environ[ENVIRONMENT])
