import sys

if sys.platform == "win32":  # before a module below asks for fcntl, or for SIGALRM
    raise ImportError(
        "a perdure server runs on Linux and macOS: on Windows, run it in WSL or in a container "
        "(the client, perdure.connect, works on Windows too)"
    )
