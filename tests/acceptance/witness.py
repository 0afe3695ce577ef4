"""The witness: everything that clients asked and were told, and whether it can be true.

Laws (checked in one pass over the operations and one over the log, each O(n log n))
- An acknowledged add has exactly one entry on the journal, which says the count the client was told (I1, I2).
- In log order each entry of an object says one more than the one before (I3, I4); a read says what its
  place in the log has, or, if it was lost with the crash that followed, nothing that time forbids.
- What was answered before another request began lies before it, and is seen by it (linearizable per object).
- A 503 or 507 changed nothing. No request appears twice on the log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from time import monotonic

from tests.acceptance.wire import Answer, Inside, Place, Wire

from perdure.schemas.commands import parse_admitted
from perdure.schemas.config import Config
from perdure.schemas.journal import Entry, EntryRecord, NoOp, in_runs
from perdure.schemas.values import decode_value
from perdure.streams.journal.reader import JournalReader
from perdure.streams.log.base import Log, Topic
from perdure.streams.opening import open_data, start_log


@dataclass(slots=True, eq=False)
class Operation:
    """One request of one client: `status` 0 means that no answer came, its outcome is unknown."""

    key: str
    adds: bool
    mark: str
    began_s: float
    ended_s: float = inf
    status: int = 0
    count: int = -1
    place: Place | None = None
    told: bytes = b""

    @property
    def ok(self) -> bool:
        return self.status == 200

    def __str__(self) -> str:
        what = f"{'add to' if self.adds else 'read of'} {self.key} ({self.mark}) at {self.place}"
        return f"{what}, told {self.status} {self.count if self.ok else self.told.decode('utf-8', 'replace')}"


@dataclass
class Witness:
    """Asks on behalf of clients and writes down what they were told. `on_ok` is called after each success."""

    operations: list[Operation] = field(default_factory=list)
    on_ok: Callable[[], None] = lambda: None
    acknowledged: int = 0  # adds
    in_flight: int = 0

    async def ask(self, wire: Wire | Inside, key: str, *, adds: bool) -> Operation:
        """One request. Raises `ConnectionError` if no answer comes."""
        operation = Operation(key, adds, f"m{len(self.operations)}", monotonic())
        self.operations.append(operation)
        self.in_flight += 1
        try:
            answer = await wire.ask("POST" if adds else "GET", f"/objects/{key}/{operation.mark}")
        finally:
            self.in_flight -= 1
        self._note(operation, answer)
        return operation

    def _note(self, operation: Operation, answer: Answer) -> None:
        operation.ended_s = monotonic()
        operation.status, operation.place, operation.told = answer.status, answer.place, answer.body
        if operation.ok:
            operation.count = answer.json["count"]
            self.acknowledged += operation.adds
            self.on_ok()

    @property
    def unknown(self) -> list[Operation]:
        """Those that were asked, and nobody knows what came of it."""
        return [each for each in self.operations if each.status in (0, 504)]

    def by_object(self) -> dict[str, list[Operation]]:
        found: dict[str, list[Operation]] = defaultdict(list)
        for operation in self.operations:
            found[operation.key].append(operation)
        return found


@dataclass(slots=True)
class Logged:
    """A command on the log: whose it is, what it leaves in the journal, and the object's count behind it."""

    key: str
    adds: bool
    mark: str
    entry: Entry | None = field(default=None, repr=False)
    done: bool = False
    count: int = 0


History = dict[Place, Logged]


async def read_history(config: Config, namespace: str = "") -> History:
    """The commands of a stopped app's log, in log order, with what the journal says they did.

    Of one namespace only, if it is named.
    """
    data = open_data(config)
    log: Log | None = None
    try:
        log = await start_log(config, data, "witness")
        history: History = {}
        for partition in range(log.partitions):
            await _read_partition(log, partition, history, f"{namespace}/".encode() if namespace else b"")
        return history
    finally:
        if log is not None:
            await log.close()
        data.close()


async def _read_partition(log: Log, partition: int, history: History, prefix: bytes) -> None:
    bounds = await log.bounds(Topic.COMMANDS, partition)
    async for chunk in log.read(Topic.COMMANDS, partition, bounds.start, bounds.end):
        for record in chunk:
            if not (record.key or b"").startswith(prefix):
                continue
            command = parse_admitted(record.key, record.value, record.headers)
            mark = command.path.strip("/") or command.id
            history[partition, record.offset] = Logged(command.key, command.method == "POST", mark)
    bounds = await log.bounds(Topic.JOURNAL, partition)
    reader = JournalReader(f"journal {partition}", exclusive=log.exclusive)
    async for chunk in log.read(Topic.JOURNAL, partition, bounds.start, bounds.end):
        for each in chunk:
            record_ = reader.step(each.offset, each.value)
            if isinstance(record_, EntryRecord) and (
                not prefix or record_.entry.key.encode().startswith(prefix)
            ):
                logged = history[partition, record_.entry.command]
                assert logged.entry is None, (
                    f"I2: {logged} has a second entry at journal offset {each.offset}"
                )
                logged.entry = record_.entry
            if isinstance(record_, (EntryRecord, NoOp)):
                for offset in in_runs(record_.done):
                    if not prefix or (partition, offset) in history:
                        history[partition, offset].done = True


def check(witness: Witness, history: History) -> None:
    """Raises `AssertionError` naming the first thing that cannot be true."""
    check_answers(witness)
    places = _fold(history)
    for operation in witness.operations:
        _check_operation(operation, history, places)
    for operations in witness.by_object().values():
        _check_real_time(operations, places)


def check_answers(witness: Witness) -> None:
    """What can be judged without the log: no count told twice, no read that goes
    back, nothing out of thin air.
    """
    for key, operations in witness.by_object().items():
        told = [each.count for each in operations if each.ok and each.adds]
        assert len(told) == len(set(told)), f"I2: {key}: one count was acknowledged twice: {sorted(told)}"
        possible = sum(each.adds for each in operations)
        highest = max((each.count for each in operations if each.ok), default=0)
        assert highest <= possible, f"I2: {key} has {highest}, only {possible} adds were ever sent"
        seen = 0
        for at, operation in _sweep(each for each in operations if each.ok):
            if at == operation.ended_s:
                seen = max(seen, operation.count)
            else:
                least = seen + operation.adds
                assert least <= (operation.count), (
                    f"I3: {operation}, but {seen} had been told before it began"
                )


def _sweep(operations: Iterable[Operation]) -> list[tuple[float, Operation]]:
    """Beginnings and ends in the order of time; at one instant beginnings first, so
    nothing is claimed of those.
    """
    moments = [(each.began_s, 0, each) for each in operations]
    moments += [(each.ended_s, 1, each) for _, _, each in moments if each.ended_s < inf]
    moments.sort(key=lambda moment: moment[:2])
    return [(at, each) for at, _, each in moments]


def _fold(history: History) -> dict[str, Place]:
    """Put each object's count behind each command; returns the place of each mark (I2, I3, I4)."""
    counts: dict[str, int] = defaultdict(int)
    places: dict[str, Place] = {}
    for place, logged in history.items():
        assert logged.mark not in places, (
            f"I2: {logged} is on the log twice: {places[logged.mark]} and {place}"
        )
        places[logged.mark] = place
        assert (logged.entry is not None) != logged.done, f"I1: {logged} at {place} has no trace, or two"
        if logged.entry is not None and logged.entry.outcome == "ok":
            due = counts[logged.key] + logged.adds
            assert logged.entry.key == logged.key, f"I4: {logged} at {place} changed another object"
            if logged.adds:
                put = {name: decode_value(value) for name, value in logged.entry.puts.items()}
                assert put == {"count": due}, f"I3: {logged} at {place} put {put}, {due} was due"
            counts[logged.key] = due
        logged.count = counts[logged.key]
    return places


def _check_operation(operation: Operation, history: History, places: dict[str, Place]) -> None:
    place = places.get(operation.mark)
    logged = None if place is None else history[place]
    changed = logged is not None and logged.entry is not None and logged.entry.outcome == "ok"
    if operation.ok and operation.adds:
        assert changed, f"I1: {operation} was acknowledged and is lost"
    if operation.ok and logged is not None:
        assert operation.place == place, f"I1: {operation} lies at {place}"
        assert operation.count == logged.count, f"I3: {operation}, the log says {logged.count}"
    if operation.status in (503, 507):
        assert not changed, f"{operation}: that says nothing changed, but the log has its entry at {place}"


def _check_real_time(operations: list[Operation], places: dict[str, Place]) -> None:
    """The order of the log is one that the clients could have seen."""
    latest: tuple[int, Operation] | None = None
    for at, operation in _sweep(each for each in operations if each.mark in places and each.ok):
        offset = places[operation.mark][1]
        if at == operation.ended_s:
            if latest is None or offset > latest[0]:
                latest = offset, operation
        elif latest is not None:
            assert latest[0] < offset, (
                f"I3: {operation} began after the end of {latest[1]}, and lies before it"
            )
