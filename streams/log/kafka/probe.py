"""Why brokers do not answer: two requests of our own find out what listens at the address.

A client reports the same "unable to bootstrap" for a dead port, a listener that speaks TLS, and one that requires SASL.
Law: nothing is sent but ApiVersions and Metadata requests, which hold no secret.
"""

from __future__ import annotations

import asyncio
import struct

PROBE_S = 2.0
TLS_RECORD = b"\x15\x03"  # an alert, in any version
_API_VERSIONS, _METADATA = 18, 3
_LARGEST = 1 << 20  # of an answer that is one
_GENERAL = (
    "Check that the brokers run, that the address is one they listen on, and that this host can reach the addresses they "
    "advertise."
)


async def advice(bootstrap: str) -> str:
    """What an operator should do if a client cannot connect to the brokers."""
    for broker in bootstrap.split(","):
        host, _, port = broker.rpartition(":")
        try:
            async with asyncio.timeout(PROBE_S):
                problem = await _probe(host.strip("[]"), int(port))
        except TimeoutError:
            problem = "accepts connections but answers nothing: it is not a broker, or it hangs"
        except OSError as error:
            problem = f"takes no connection ({error.strerror or error!r})"
        if problem:
            return f"{broker} {problem}. {_GENERAL if 'connection (' in problem else ''}".strip()
    return _GENERAL


async def _probe(host: str, port: int) -> str:
    """Why perdure cannot use what listens there; empty if it is a broker that answers."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        answer = await _ask(reader, writer, _API_VERSIONS, b"")
        if answer.startswith(TLS_RECORD) or not answer:
            certain = (
                "speaks TLS"
                if answer
                else "closes the connection at the first request, as a TLS listener does"
            )
            return f"{certain}: TLS is not supported yet, so name a PLAINTEXT listener"
        if len(answer) < 4 or struct.unpack(">i", answer[:4])[0] not in range(4, _LARGEST):
            return f"does not speak Kafka's protocol: it answers {answer[:20]!r}"
        if not await _ask(reader, writer, _METADATA, struct.pack(">i", 0)):
            return "asks for SASL: it is not supported yet, so name a PLAINTEXT listener"
        return ""
    except ConnectionError:
        return "closes the connection at the first request, as a TLS listener does: TLS is not supported yet"
    finally:
        writer.close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, api: int, body: bytes) -> bytes:
    """The beginning of the response to a request of version 0 (Metadata: 1); empty if the connection was closed."""
    head = struct.pack(">hhih", api, 1 if api == _METADATA else 0, 1, 7) + b"perdure"
    writer.write(struct.pack(">i", len(head) + len(body)) + head + body)
    await writer.drain()
    answer = await reader.read(65536)
    if len(answer) >= 4:  # the rest of it, so that the next answer is read from its beginning
        left = struct.unpack(">i", answer[:4])[0] + 4 - len(answer)
        if 0 < left < _LARGEST:
            await reader.readexactly(left)
    return answer
