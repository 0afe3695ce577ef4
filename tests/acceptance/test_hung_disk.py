"""A disk that does not answer: the process ends by itself, says why, and the next
one goes on where it was.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.acceptance.harness import deploy, port_of
from tests.acceptance.wire import PATIENCE_S, Wire

APP = Path(__file__).with_name("hung_app.py")
EXIT_HUNG = 70


@pytest.mark.parametrize("where", ["loop", "thread"])
def test_an_fsync_that_does_not_come_back_ends_the_process(tmp_path: Path, where: str) -> None:
    """Exit 70 and one line; after a restart the client's repeat under its key takes effect once."""
    deployment = deploy(tmp_path, settings="[limits]\nfsync_s = 1.0\n", app=APP)
    hang, environ = deployment.folder / "hang", {"FSYNC_WHERE": where}

    async def increment(port: int, key: str) -> bytes:
        async with asyncio.timeout(PATIENCE_S), Wire(port) as wire:
            return (
                await wire.ask("POST", "/rpc/Counter/c/increment", b"{}", [("idempotency-key", key)])
            ).body

    with deployment.serve(environ=environ) as server:
        port = port_of(server)
        assert asyncio.run(increment(port, "one")) == b'{"result":1}'
        hang.touch()
        with pytest.raises(ConnectionError):
            asyncio.run(increment(port, "two"))
        assert server.wait() == EXIT_HUNG
        (line,) = [each for each in server.stderr().splitlines() if "this process ends" in each]
        assert "limits.fsync_s" in line
        assert str(deployment.data / "log") in line
    hang.unlink()
    with deployment.serve(environ=environ) as server:
        for key, body in (("one", b'{"result":1}'), ("two", b'{"result":2}'), ("three", b'{"result":3}')):
            assert asyncio.run(increment(port_of(server), key)) == body
        assert server.stop() == 0
    deployment.verify()
