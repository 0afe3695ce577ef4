# mypy: ignore-errors
# picows lives in an environment of its own, where this file runs: `python edits.py URL LONG SHORT SAMPLES`.
"""The round trip of an edit in a long document and in a short one: from sending it until it comes back.

The documents are `URL-long` and `URL-short`, filled with LONG and SHORT edits first; SAMPLES edits of each
follow, by turns. Prints one JSON object: {"long_ms", "short_ms"}, a list each.
"""

import asyncio
import json
import sys
import time

import uvloop
from picows import WSListener, WSMsgType, ws_connect

TIMEOUT_S = 120
AT_ONCE = 50


class Editor(WSListener):
    wanted = 0

    def on_ws_connected(self, transport):
        self.transport = transport

    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.TEXT:
            self.wanted -= 1
            if not self.wanted:
                self.complete.set_result(None)

    async def edit(self, times):
        """Makes that many edits and waits until all are back; gives the milliseconds."""
        self.wanted, self.complete = times, asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        for number in range(times):
            self.transport.send(WSMsgType.TEXT, b'{"edit":"x%d"}' % number)
        await asyncio.wait_for(self.complete, TIMEOUT_S)
        return (time.perf_counter() - began) * 1e3


async def main(url, long, short, samples):
    editors, seen = {}, {"long_ms": [], "short_ms": []}
    for name, edits in (("long", long), ("short", short)):
        _, editors[name] = await ws_connect(Editor, f"{url}-{name}")
        for done in range(0, edits, AT_ONCE):
            await editors[name].edit(min(AT_ONCE, edits - done))
    for number in range(samples):
        for name in ("long", "short") if number % 2 else ("short", "long"):
            seen[f"{name}_ms"].append(await editors[name].edit(1))
    print(json.dumps(seen))


uvloop.run(main(sys.argv[1], *map(int, sys.argv[2:])))
