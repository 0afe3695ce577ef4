"""One kind of request: its number, its versions, its fields, and what answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.streams.wire.codec import EVER, FrameReader, Message, Struct, UnreadableFrame, read, write
from perdure.streams.wire.errors import RequestRefused

if TYPE_CHECKING:
    from perdure.streams.wire.broker import Broker, KafkaCaller

Answer = Message | Awaitable[Message | None] | None
Handle = Callable[["Broker", "KafkaCaller", Message, int], Answer]


def by_partition(
    request: Message, answer: Callable[[str, Message, dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """The topics of a response to a request that names partitions by topic, a result for each.

    `answer(topic, part, result)` fills in a result, or raises `RequestRefused`, which becomes its error.
    """
    topics = []
    for topic in request["topics"]:
        results = []
        for part in topic["partitions"]:
            result: dict[str, Any] = {"index": part["index"]}
            results.append(result)
            try:
                answer(topic["name"], part, result)
            except RequestRefused as refused:
                result.update(error=refused.code, error_message=str(refused))
        topics.append({"name": topic["name"], "partitions": results})
    return topics


class Api(NamedTuple):
    """A kind of request.

    `flexible`: the first version with compact fields. `handle(broker, caller, request, version)` returns the
    response, or an awaitable of it; None: there is none. `in_flight`: the next request of the connection may
    be handled before this one is answered.
    """

    key: int
    name: str
    first: int
    last: int
    request: Struct
    response: Struct
    handle: Handle
    flexible: int = EVER
    in_flight: bool = False
    open: bool = False

    def read(self, version: int, reader: FrameReader) -> Message:
        """The request behind its header's client id. Raises `UnreadableFrame`."""
        compact = version >= self.flexible
        try:
            if compact:
                reader.skip_tags()
            return read(self.request, version, compact, reader)
        except UnreadableFrame as error:
            raise UnreadableFrame(f"a request {self.name} of version {version}: {error}") from None

    def write(self, version: int, correlation: int, response: Message) -> bytearray:
        """The frame of a response, with its length."""
        compact = version >= self.flexible
        out = bytearray(4)
        out += correlation.to_bytes(4, "big", signed=True)
        if compact and self.key != API_VERSIONS:  # its answer is read before versions are agreed on
            out.append(0)
        write(self.response, version, compact, out, response)
        out[:4] = (len(out) - 4).to_bytes(4, "big")
        return out


API_VERSIONS = 18
