"""A command that nobody waited for, and a process that dies over it: its outcome is found at its URL."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import httpx
from tests.acceptance.harness import deploy

PATIENCE_S = 30.0


def test_the_outcome_of_an_accepted_command_is_found_after_sigkill(tmp_path: Path, log: str) -> None:
    """The process dies while the command runs; it runs at the next start, once."""
    deployment = deploy(tmp_path, log=log, name=f"t{uuid4().hex[:12]}")
    with deployment.serve(environ={"SLOW_S": "600"}) as server:
        answer = httpx.post(f"{server.url}/objects/Slow/a", headers={"prefer": "respond-async"})
        assert answer.status_code == 202
        url = answer.headers["location"]
        assert httpx.get(server.url + url).json()["status"] == "pending"
        server.kill()
    for _ in range(2):  # the second time it was done before the start
        with deployment.serve(environ={"SLOW_S": "0"}) as server:
            found = httpx.get(f"{server.url}{url}?wait=30", timeout=PATIENCE_S * 2).json()
            assert (found["status"], found["outcome"]) == ("done", "ok")
            assert found["reply"]["body"] == {"count": 1}
            server.kill()
