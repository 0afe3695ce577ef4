"""The membership of this node: it adds its heartbeats to the log, and reads those of all nodes.

Laws [test_placement.py]
- A node first adds a heartbeat, then reads those before it: so of two nodes that join at once one sees the
  other.
- A second of the node counts only once its heartbeat is durable: while the log accepts none, none counts.
- A node that reads that it is considered gone calls `expelled`, and joins under another name.
- Heartbeats under another app's seal do not count. If a node with another secret lives, joining is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import count

import structlog

from perdure.schemas.errors import ConfigError, OutcomeUnknown, Unavailable
from perdure.schemas.seal import Seal, id_of
from perdure.streams.log.base import Log, LogRecord, Tail, Topic, durable
from perdure.streams.placement.beats import PLACE, Beat, Served, beat_record, is_beat, parse_beat
from perdure.streams.placement.members import BEAT_S, Members
from perdure.streams.turns.pending_calls import LongWait
from perdure.streams.turns.ports import Identity

WINDOW_MS = 10_000  # heartbeats of living members that are read back: by the broker's stamps alone
STRANGER_S = 2.5 * BEAT_S
RETRY_S = 0.2
LEAVE_S = 1.0
_logger = structlog.get_logger(__name__)
Description = tuple[Mapping[int, Served], Mapping[int, int], bool, list[LongWait]]  # see `Beat`


class Membership:
    """This node among the members of its app.

    Args:
        log: the log that the nodes share.
        seal: signs heartbeats.
        identity: the names of this node.
        home: names its data directory.
        describe: returns what the node serves and follows now, and whether it is leaving.
        changed: called when the members, or what they serve, have changed.
        expelled: called when the others consider this node gone.
    """

    def __init__(
        self,
        log: Log,
        seal: Seal,
        identity: Identity,
        home: str,
        describe: Callable[[], Description],
        changed: Callable[[], None],
        expelled: Callable[[], None],
    ) -> None:
        self._log = log
        self._seal = seal
        self._identity = identity
        self._home = home
        self._describe = describe
        self._changed = changed
        self._expelled = expelled
        self.members = Members()
        self._names = (f"{identity.node}.{n}" for n in count())
        self.name = next(self._names)
        self.tick = 0
        self._urgent = asyncio.Event()
        self._tail: Tail | None = None
        self._strangers: dict[str, tuple[int, str]] = {}  # under another seal: last offset, id of the secret
        self._closed = False

    @property
    def joined(self) -> bool:
        """True if this node is a member under its name of now."""
        return self.name in self.members

    def beat(self, *, left: bool = False) -> Beat:
        """The next heartbeat of this node."""
        serving, warm, leaving, waits = self._describe()
        me = self._identity
        names = self.name, me.node, me.host, me.pid, self._home
        return Beat(*names, self.tick, dict(serving), dict(warm), leaving, left, waits)

    def beats(self) -> list[Beat]:
        """The newest heartbeat of each member, this node's own as it is now."""
        mine = self.beat()
        return [mine if each.member == self.name else each for each in self.members.beats]

    async def join(self) -> None:
        """Become a member. Raises `ConfigError` for another secret, and what reading the log raises."""
        offset = None
        while offset is None:
            receipt = self._log.append(Topic.REPLIES, PLACE, beat_record(self.beat(), self._seal))
            try:
                await durable(receipt)
                offset = receipt.offset
            except (OutcomeUnknown, Unavailable):
                await asyncio.sleep(RETRY_S)
        stamp_ms = 0
        async for chunk in self._log.read(Topic.REPLIES, PLACE, offset, offset + 1):
            stamp_ms = chunk[0].time_ms
        earlier = await self._log.since(Topic.REPLIES, PLACE, stamp_ms - WINDOW_MS)
        start = offset if earlier is None else min(earlier.offset, offset)
        async for chunk in self._log.read(Topic.REPLIES, PLACE, start, offset + 1):
            for record in chunk:
                self._take(record)
        self._tail = self._log.tail(Topic.REPLIES, PLACE, offset + 1, self._deliver)
        if self._strangers:
            await self._refuse_strangers(offset)

    async def _refuse_strangers(self, joined_at: int) -> None:
        """Raises `ConfigError` if a node with another secret adds a heartbeat after this one has joined."""
        until_s = asyncio.get_running_loop().time() + STRANGER_S
        while asyncio.get_running_loop().time() < until_s:
            for node, (offset, secret) in self._strangers.items():
                if offset > joined_at:
                    raise ConfigError(
                        f"another node of this app ({node}) seals with the secret {secret or 'of another version'}, this one "
                        f"with {self._seal.id}: nodes of one app share a secret. Set PERDURE_SEAL_SECRET to the same on all "
                        "of them, or copy the file `secret` from the data directory of that node"
                    )
            await asyncio.sleep(RETRY_S / 4)

    def _deliver(self, record: LogRecord) -> None:
        if not self._closed and self._take(record):
            self._changed()

    def _take(self, record: LogRecord) -> bool:
        if not is_beat(record) or (beat := parse_beat(record)) is None:
            return False
        if not self._seal.holds(record.key, record.value, record.headers):
            if beat.left:
                self._strangers.pop(beat.who, None)
            else:
                self._strangers[beat.who] = record.offset, id_of(record.headers)
            return False
        before = beat.member in self.members
        changed = self.members.apply(beat)
        if not before and beat.member in self.members:
            _logger.info("a node has joined", node=beat.node, host=beat.host, pid=beat.pid)
        elif beat.left:
            _logger.info("a node has left", node=beat.node, host=beat.host, pid=beat.pid)
        if self.members.is_gone(self.name):
            self._rejoin()
        return changed

    def _rejoin(self) -> None:
        self.name = next(self._names)
        _logger.warning("this node was silent and was taken for gone: it joins again", name=self.name)
        self._expelled()
        self.beat_now()

    def beat_now(self) -> None:
        """Add a heartbeat as soon as possible: what it says has changed."""
        self._urgent.set()

    async def keep(self) -> None:
        """Add heartbeats, one a second and when something has changed, until cancelled."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + BEAT_S
        while True:
            try:
                async with asyncio.timeout_at(due_s):
                    await self._urgent.wait()
            except TimeoutError:
                pass
            self._urgent.clear()
            if loop.time() >= due_s:
                self.tick += 1
                due_s = loop.time() + BEAT_S
                self._changed()  # what waits for a tick of its own
            try:
                await durable(self._log.append(Topic.REPLIES, PLACE, beat_record(self.beat(), self._seal)))
            except (OutcomeUnknown, Unavailable):
                await asyncio.sleep(RETRY_S)
                self.beat_now()

    async def close(self) -> None:
        """Say that this node has left, if the log takes it; `keep` does not run any more."""
        self._closed = True
        if self._tail is None:
            return  # it has never joined
        self._tail.close()
        try:
            async with asyncio.timeout(LEAVE_S):
                record = beat_record(self.beat(left=True), self._seal)
                await durable(self._log.append(Topic.REPLIES, PLACE, record))
        except (OutcomeUnknown, Unavailable, TimeoutError):
            _logger.warning("this node could not say that it leaves: the others will find out")
