"""One consumer group: members join, a leader assigns, and the group rebalances when a member joins or leaves.

No I/O: answers go to futures, and time is that of the event loop.

Laws [tests/unit/test_wire_groups.py]
- Each join of a generation is answered with the same generation and protocol; one of its members is the
  leader.
- A member that is silent for its session time-out, or does not join again within the rebalance time-out, is
  removed, and the others rebalance.
- A member of an earlier generation, or one that was removed, commits and assigns nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from enum import Enum
from uuid import uuid4

from perdure.streams.wire.codec import Message
from perdure.streams.wire.errors import Code

MAX_MEMBERS = 200
MAX_METADATA_BYTES = 256 * 1024  # of one member

Protocols = tuple[tuple[str, bytes], ...]  # by name: what a member says of itself


class GroupState(Enum):
    """The state of a group, by the names that administration shows."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


class Member:
    """A member of a group."""

    __slots__ = (
        "assignment",
        "client_id",
        "deadline_s",
        "host",
        "id",
        "instance",
        "joining",
        "protocols",
        "rebalance_s",
        "session_s",
        "syncing",
    )

    def __init__(self, id_: str, instance: str | None, client_id: str, host: str) -> None:
        self.id = id_
        self.instance = instance
        self.client_id = client_id
        self.host = host
        self.protocols: Protocols = ()
        self.session_s = self.rebalance_s = 0.0
        self.deadline_s = 0.0
        self.assignment = b""
        self.joining: asyncio.Future[Message] | None = None
        self.syncing: asyncio.Future[Message] | None = None

    def metadata(self, protocol: str) -> bytes:
        return dict(self.protocols).get(protocol, b"")

    @property
    def waits(self) -> bool:
        """True if one of its requests waits for an answer: it cannot send heartbeats meanwhile."""
        return any(each is not None and not each.done() for each in (self.joining, self.syncing))

    def answer(self, response: Message) -> None:
        """Answer what it waits for."""
        for future in (self.joining, self.syncing):
            if future is not None and not future.done():
                future.set_result(response)
        self.joining = self.syncing = None


class Group:
    """A group. `loop` gives the time and its timers."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.state = GroupState.EMPTY
        self.generation = 0
        self.protocol_type = ""
        self.protocol = ""
        self.leader = ""
        self.members: dict[str, Member] = {}
        self._pending: dict[str, float] = {}  # ids that were handed out, with the time when they expire
        self._loop = loop
        self._rebalance_until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """True if it has no members, and none is about to be one."""
        return not self.members and not self._pending

    # --- joining

    def join(self, request: Message, client_id: str, host: str, *, needs_id: bool) -> asyncio.Future[Message]:
        """A member joins, or joins again. `needs_id`: a new one only gets an id, and joins again with
        it.
        """
        answer: asyncio.Future[Message] = self._loop.create_future()
        code = self._check_join(request)
        member = None if code else self._member_of(request, client_id, host, needs_id, answer)
        if member is None:
            if not answer.done():
                answer.set_result(_refused(code or Code.UNKNOWN_MEMBER_ID, request["member"]))
            return answer
        protocols = tuple((each["name"], each["metadata"]) for each in request["protocols"])
        unchanged = member.id in self.members and member.protocols == protocols
        if unchanged and (
            self.state is GroupState.COMPLETING
            or (self.state is GroupState.STABLE and member.id != self.leader)
        ):
            self._alive(member)
            answer.set_result(self._joined(member))
            return answer
        member.protocols = protocols
        member.session_s = request["session_timeout_ms"] / 1000
        member.rebalance_s = max(request["rebalance_timeout_ms"] or 0, request["session_timeout_ms"]) / 1000
        if member.joining is not None and not member.joining.done():
            member.joining.set_result(_refused(Code.UNKNOWN_MEMBER_ID, member.id))  # of an earlier connection
        member.joining = answer
        self.members[member.id] = member
        self.protocol_type = request["protocol_type"]
        self._alive(member)
        self._prepare()
        self._complete_if_all_joined()
        return answer

    def _check_join(self, request: Message) -> Code:
        names = {each["name"] for each in request["protocols"]}
        size = sum(len(each["metadata"]) for each in request["protocols"])
        others = [member for member in self.members.values() if member.id != request["member"]]
        if not names or not request["protocol_type"]:
            return Code.INCONSISTENT_GROUP_PROTOCOL
        if others and (request["protocol_type"] != self.protocol_type or not names & self._common(others)):
            return Code.INCONSISTENT_GROUP_PROTOCOL
        if size > MAX_METADATA_BYTES or len(others) + len(self._pending) >= MAX_MEMBERS:
            return Code.GROUP_MAX_SIZE_REACHED
        return Code.NONE

    def _member_of(
        self, request: Message, client_id: str, host: str, needs_id: bool, answer: asyncio.Future[Message]
    ) -> Member | None:
        """The member that a request is of; None if it is answered, or of a member that is not known."""
        id_, instance = request["member"], request["instance"]
        static = next(
            (each for each in self.members.values() if instance and each.instance == instance), None
        )
        if static is not None and id_ != static.id:
            if id_:
                answer.set_result(_refused(Code.FENCED_INSTANCE_ID, id_))
                return None
            static.answer(_refused(Code.FENCED_INSTANCE_ID, static.id))
            del self.members[static.id]
        if not id_:
            id_ = f"{client_id or 'member'}-{uuid4()}"
            if needs_id and instance is None:
                self._pending[id_] = self._loop.time() + request["session_timeout_ms"] / 1000
                self._arm()
                answer.set_result(_refused(Code.MEMBER_ID_REQUIRED, id_))
                return None
            return Member(id_, instance, client_id, host)
        if self._pending.pop(id_, None) is not None:
            return Member(id_, instance, client_id, host)
        return self.members.get(id_)

    @staticmethod
    def _common(members: list[Member]) -> set[str]:
        """The names of the protocols that all of them have."""
        return set.intersection(*({name for name, _ in each.protocols} for each in members))

    def _prepare(self) -> None:
        """Begin a rebalance: every member has to join again."""
        if self.state is GroupState.PREPARING:
            return
        self.state = GroupState.PREPARING
        self._rebalance_until_s = self._loop.time() + max(each.rebalance_s for each in self.members.values())
        for member in self.members.values():
            if member.syncing is not None and not member.syncing.done():
                member.syncing.set_result({"error": Code.REBALANCE_IN_PROGRESS})
            member.syncing = None
        self._arm()

    def _complete_if_all_joined(self) -> None:
        joined = all(member.joining is not None and member.waits for member in self.members.values())
        if self.state is GroupState.PREPARING and joined and not self._pending:
            self._complete()

    def _complete(self) -> None:
        """Begin a generation of those that have joined."""
        for member in [each for each in self.members.values() if each.joining is None or not each.waits]:
            del self.members[member.id]
        self.generation += 1
        if not self.members:
            self.state, self.leader, self.protocol = GroupState.EMPTY, "", ""
            return
        self.state = GroupState.COMPLETING
        common = self._common(list(self.members.values()))
        votes = Counter(
            next(name for name, _ in member.protocols if name in common) for member in self.members.values()
        )
        self.protocol = votes.most_common(1)[0][0]
        if self.leader not in self.members:
            self.leader = next(iter(self.members))
        for member in self.members.values():
            member.assignment = b""
            self._alive(member)
            member.answer(self._joined(member))
        self._arm()

    def _joined(self, member: Member) -> Message:
        """The answer to a member that has joined the present generation."""
        members = self.members.values() if member.id == self.leader else ()
        return {
            "generation": self.generation,
            "protocol": self.protocol,
            "leader": self.leader,
            "member": member.id,
            "members": [
                {"member": each.id, "instance": each.instance, "metadata": each.metadata(self.protocol)}
                for each in members
            ],
        }

    # --- from then on

    def check(self, id_: str, generation: int, instance: str | None = None) -> Code:
        """The error of a request of this member in this generation; without one it counts as alive."""
        member = self.members.get(id_)
        if member is None:
            static = instance and any(each.instance == instance for each in self.members.values())
            return Code.FENCED_INSTANCE_ID if static else Code.UNKNOWN_MEMBER_ID
        if generation != self.generation:
            return Code.ILLEGAL_GENERATION
        self._alive(member)
        return Code.NONE

    def sync(self, request: Message) -> asyncio.Future[Message]:
        """A member wants its assignment; the leader brings those of all."""
        answer: asyncio.Future[Message] = self._loop.create_future()
        code = self.check(request["member"], request["generation"], request["instance"])
        if not code and self.state is GroupState.PREPARING:
            code = Code.REBALANCE_IN_PROGRESS
        if code:
            answer.set_result({"error": code})
            return answer
        member = self.members[request["member"]]
        if self.state is GroupState.STABLE:
            answer.set_result({"assignment": member.assignment})
            return answer
        member.syncing = answer
        if member.id == self.leader:
            self._assign({each["member"]: each["assignment"] for each in request["assignments"]})
        return answer

    def _assign(self, assignments: Mapping[str, bytes]) -> None:
        self.state = GroupState.STABLE
        for member in self.members.values():
            member.assignment = assignments.get(member.id, b"")
            if member.syncing is not None:
                self._alive(member)
                member.answer({"assignment": member.assignment})

    def heartbeat(self, id_: str, generation: int, instance: str | None) -> Code:
        code = self.check(id_, generation, instance)
        return Code.REBALANCE_IN_PROGRESS if not code and self.state is GroupState.PREPARING else code

    def leave(self, id_: str, instance: str | None = None) -> Code:
        """Remove a member, by its id or its instance."""
        if instance is not None and not id_:
            id_ = next((each.id for each in self.members.values() if each.instance == instance), "")
        if self._pending.pop(id_, None) is None and id_ not in self.members:
            return Code.UNKNOWN_MEMBER_ID
        self._remove([id_])
        return Code.NONE

    def _remove(self, ids: list[str]) -> None:
        for id_ in ids:
            member = self.members.pop(id_, None)
            if member is not None:
                member.answer(_refused(Code.UNKNOWN_MEMBER_ID, id_))
        if not self.members:
            if self.state is not GroupState.EMPTY:
                self.state, self.leader, self.protocol = GroupState.EMPTY, "", ""
                self.generation += 1
        else:
            if ids and self.state is not GroupState.PREPARING:
                self._prepare()
            self._complete_if_all_joined()

    # --- time

    def _alive(self, member: Member) -> None:
        member.deadline_s = self._loop.time() + member.session_s
        self._arm()

    def _arm(self) -> None:
        """Have `_expire` called in time; it may be too early, as heartbeats do not set the timer again."""
        due = [*(each.deadline_s for each in self.members.values()), *self._pending.values()]
        if self.state is GroupState.PREPARING:
            due.append(self._rebalance_until_s)
        if self._timer is not None:
            if due and self._timer.when() <= min(due):
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(min(due), self._expire) if due else None

    def _expire(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        self._pending = {id_: until_s for id_, until_s in self._pending.items() if until_s > now_s}
        for member in self.members.values():
            if member.waits:
                member.deadline_s = now_s + member.session_s
        self._remove([each.id for each in self.members.values() if each.deadline_s <= now_s])
        if self.state is GroupState.PREPARING and self._rebalance_until_s <= now_s:
            self._complete()
        self._arm()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()


def _refused(code: Code, member: str) -> Message:
    return {"error": code, "generation": -1, "member": member}
