"""Says on Windows what to do there, before a module of this room asks for what only POSIX has."""

import sys

if sys.platform == "win32":
    raise ImportError(
        "a perdure server runs on Linux and macOS: on Windows, run it in WSL or in a container "
        "(the client, perdure.connect, works on Windows too)"
    )
