"""`python -m bench.peers.limit PORT DIRECTORY`: the limit loop on the best server settings known."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import uvicorn

from bench.peers.limit.app import LimitLoop
from bench.peers.limit.onewrite import OneWriteProtocol


def serve(app: Any, port: int) -> None:
    """Run an ASGI application on the best server settings known."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    uvicorn.run(
        app,
        port=port,
        loop="uvloop",
        http=OneWriteProtocol,
        log_level="warning",
        access_log=False,  # costs 40 %
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )


if __name__ == "__main__":
    serve(LimitLoop(Path(sys.argv[2])), int(sys.argv[1]))
