#!/usr/bin/env bash
# uvloop accepts one connection in each pass of its event loop, where asyncio's own loop takes all that wait.
#
# A server whose passes are long (5 ms of work each, say) so needs 1 s to accept 200 clients that came at once, though its
# listening socket had them all from the start. Whoever shares a loop between work and accepting must give it short passes
# while clients wait, or bound the work of a pass.
#
# Seen: uvloop 0.23.0 on CPython 3.11, Linux: 50 waiting connections are accepted in 50 passes, one in each;
# asyncio's selector loop accepts all 50 in one pass. Exits with 1 if that has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "uvloop==0.23.0"

cat >"$dir/accept.py" <<'PY'
import asyncio
import socket
import sys

import uvloop

CLIENTS = 50


def most_in_a_pass(loop):
    accepted, passes = [], 0

    class Peer(asyncio.Protocol):
        def connection_made(self, transport):
            accepted.append(passes)

    async def main():
        nonlocal passes
        server = await loop.create_server(Peer, "127.0.0.1", 0, backlog=2 * CLIENTS)
        address = server.sockets[0].getsockname()
        clients = [socket.create_connection(address) for _ in range(CLIENTS)]
        while len(accepted) < CLIENTS and passes < 10 * CLIENTS:
            passes += 1
            await asyncio.sleep(0)
        for client in clients:
            client.close()
        server.close()

    loop.run_until_complete(main())
    loop.close()
    assert len(accepted) == CLIENTS, accepted
    return max(map(accepted.count, set(accepted)))


ours, theirs = most_in_a_pass(asyncio.new_event_loop()), most_in_a_pass(uvloop.new_event_loop())
print(f"python {sys.version.split()[0]}, uvloop {uvloop.__version__}, {CLIENTS} connections that wait")
print(f"asyncio accepts up to {ours} in one pass, uvloop up to {theirs}")
sys.exit(not (ours == CLIENTS and theirs == 1))
PY
"$dir/venv/bin/python" "$dir/accept.py"
