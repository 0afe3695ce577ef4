"""The load of `perdure bench`: keep-alive connections that each send the next request after the last answer.

It is own code on bare asyncio streams, because the client shares the machine with the server: it takes 20 µs
of CPU a request, and httpx with 32 connections took over 1 ms. wrk is not a Python package; the repository's
`bench/` uses it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from perdure.schemas.errors import ConfigError, OperatorError


@dataclass
class Tally:
    """The result of a load: requests, errors, and latencies in seconds."""

    requests: int = 0
    errors: int = 0
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    def percentile_ms(self, percent: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000 if ordered else 0.0


async def run_load(
    url: str, *, method: str, prefix: str, objects: int, connections: int, seconds: float
) -> Tally:
    """Send requests to `{url}{prefix}{i}` over i < objects, and return what was counted.

    url: the server, http only.
    method: the HTTP method.
    prefix: the path, to which the object's number is appended.
    objects: how many objects the requests are spread over.
    connections: how many clients send at once.
    seconds: length of the load.

    Raises `OperatorError` if the server does not answer, `ConfigError` for a URL that is not http.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise ConfigError(f'--url "{url}" must look like http://127.0.0.1:8787')
    host, port = parts.hostname, parts.port or 80
    tally = Tally()
    clock = time.perf_counter
    started = clock()

    async def client(number: int) -> None:
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            raise OperatorError(f"no server answers at {url} ({error.strerror or error})") from None
        try:
            while clock() - started < seconds:
                target = f"{prefix}{number % objects}"
                number += connections
                sent = clock()
                writer.write(
                    f"{method} {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n".encode()
                )
                status = await _answer(reader)
                tally.latencies_s.append(clock() - sent)
                tally.requests += 1
                tally.errors += status >= 400
        finally:
            writer.close()

    try:
        async with asyncio.TaskGroup() as clients:
            for number in range(connections):
                clients.create_task(client(number))
    except* OperatorError as group:
        raise group.exceptions[0] from None
    except* (OSError, asyncio.IncompleteReadError) as group:
        raise OperatorError(f"{url} closed a connection under load: {group.exceptions[0]}") from None
    tally.seconds = clock() - started
    return tally


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read one response; returns its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    status_line, *lines = head.lower().split(b"\r\n")
    for line in lines:
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line[15:]))
    return int(status_line.split(b" ", 2)[1])
