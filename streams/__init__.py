"""The durable part of perdure: logs, journals, state, turns, and the owners that connect them.

A command is read from the log (`log`) by the owner of its partition (`owner`) and runs as a turn of one
object (`turns`). What the turn did is journaled (`journal`) and folded into tables (`state`), which are kept
in a store (`store`). `transfer` runs migrations, `rebuild` makes state from the log again, and `opening.py`
opens the log that a configuration names.

Laws
- Nothing here knows HTTP, and each package imports only those below it. pyproject.toml has their order.
- It needs POSIX. On Windows the import says so before a module asks for what is missing there.
"""

import sys

if sys.platform == "win32":
    raise ImportError(
        "a perdure server runs on Linux and macOS: on Windows, run it in WSL or in a container "
        "(the client, perdure.connect, works on Windows too)"
    )
