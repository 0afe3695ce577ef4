# mypy: ignore-errors
# picows lives in an environment of its own, where this file runs: `python broadcast.py URL SOCKETS ROUNDS`.
"""Broadcast latency: sockets in one room; the time from one's message until all have received it.

Prints one JSON object: {"sockets", "connect_s", "latencies_ms": [one per round]}. The client is written on
picows, in C, so that what is measured is the server.
"""

import asyncio
import json
import sys
import time

import uvloop
from picows import WSListener, WSMsgType, ws_connect

ROUND_TIMEOUT_S = 20
CONNECTS_AT_ONCE = 50


class Round:
    """Counts receipts until every socket has one."""

    def __init__(self, wanted):
        self.wanted, self.received, self.complete = wanted, 0, asyncio.get_running_loop().create_future()


class Client(WSListener):
    current = None

    def on_ws_connected(self, transport):
        self.transport = transport

    def on_ws_frame(self, transport, frame):
        if Client.current is not None and frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            Client.current.received += 1
            if Client.current.received == Client.current.wanted:
                Client.current.complete.set_result(None)


async def main(url, sockets, rounds):
    clients, started = [], time.perf_counter()
    while len(clients) < sockets:
        some = min(CONNECTS_AT_ONCE, sockets - len(clients))
        clients += [
            client for _, client in await asyncio.gather(*[ws_connect(Client, url) for _ in range(some)])
        ]
    connect_s, latencies_ms = time.perf_counter() - started, []
    for number in range(rounds):
        Client.current = Round(sockets)
        sent = time.perf_counter()
        clients[0].transport.send(WSMsgType.TEXT, b'{"edit":"x%d"}' % number)
        await asyncio.wait_for(Client.current.complete, ROUND_TIMEOUT_S)
        latencies_ms.append((time.perf_counter() - sent) * 1e3)
        await asyncio.sleep(0.05)
    print(json.dumps({"sockets": sockets, "connect_s": connect_s, "latencies_ms": latencies_ms}))


uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
