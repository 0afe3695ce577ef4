# mypy: ignore-errors
# picows lives in an environment of its own, where this file runs:
# `python beside.py PORT SECONDS HOT_PER_S SOCKETS`.
"""What others see beside one hot object: reads of idle objects, while it gets more than a processor can do.

HOT_PER_S requests a second go to one object, each on an idle connection or a new one, whatever becomes of
the earlier ones; SOCKETS sockets, each of a room of its own, have 20 messages under way all the time. READERS
clients read other objects meanwhile, one after the other. Prints one JSON object: {"reads_ms", "turns",
"hot", "messages"}; `turns` are those of the hot object from one read of a client to its next one.
"""

import asyncio
import json
import sys
import time
from collections import Counter

import uvloop
from picows import WSListener, WSMsgType, ws_connect

READERS, PAUSE_S, OBJECTS = 8, 0.01, 1_000
UNDER_WAY = 20
WARMUP_S = 1.0


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request under way."""

    def connection_made(self, transport):
        self.transport, self.data = transport, b""

    def data_received(self, data):
        self.data += data
        head, end, self.body = self.data.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(self.body) >= int(length or b"0"):
            self.data = b""  # its body is kept
            self.answered.set_result(int(head.split(b" ", 2)[1]))

    def connection_lost(self, error):
        if not self.answered.done():
            self.answered.set_result(0)

    async def request(self, method, path):
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n".encode())
        return await self.answered


class Sender(WSListener):
    def on_ws_connected(self, transport):
        self.transport, self.returned = transport, 0
        for _ in range(UNDER_WAY):
            transport.send(WSMsgType.TEXT, b"message")

    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.TEXT:
            self.returned += 1
            transport.send(WSMsgType.TEXT, b"message")


async def main(port, seconds, hot_per_s, sockets):
    loop = asyncio.get_running_loop()
    hot, reads_ms, turns, idle, tasks = Counter(), [], [], [], set()

    async def connect():
        return (await loop.create_connection(Connection, "127.0.0.1", port))[1]

    async def one_hot():
        connection = idle.pop() if idle else await connect()
        status = await connection.request("POST", "/objects/Busy/one")
        hot[status] += 1
        if status:
            idle.append(connection)

    async def read(number):
        connection, before = await connect(), None
        while loop.time() < until_s:
            number = (number + 7) % OBJECTS
            began_s = time.perf_counter()
            status = await connection.request("GET", f"/objects/Idle/o{number}")
            assert status == 200, status
            done, last = json.loads(connection.body)["count"], before
            before = done
            if last is not None and loop.time() > counted_from_s:
                turns.append(done - last)
                reads_ms.append((time.perf_counter() - began_s) * 1e3)
            await asyncio.sleep(PAUSE_S)

    senders = [
        (await ws_connect(Sender, f"ws://127.0.0.1:{port}/objects/Room/r{number}"))[1]
        for number in range(sockets)
    ]
    began_s, sent = loop.time(), 0
    counted_from_s = began_s + WARMUP_S
    until_s = counted_from_s + seconds
    readers = [loop.create_task(read(number)) for number in range(READERS)]
    while loop.time() < until_s:
        while hot_per_s and sent < (loop.time() - began_s) * hot_per_s:
            task = loop.create_task(one_hot())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*readers)
    messages = sum(each.returned for each in senders)
    print(
        json.dumps({"reads_ms": reads_ms, "turns": turns, "hot": {"sent": sent, **hot}, "messages": messages})
    )


uvloop.run(main(*map(int, sys.argv[1:])))
