"""One simulated run: nodes, clients and faults from one seed, on virtual time.

A seed decides everything: which log, how it misbehaves, when nodes crash (between any two steps that matter),
stall, come back and fight for a partition, and what clients ask. `Run(seed).go()` ends with every invariant
checked; the counts of what happened say whether the run was worth anything.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any
from unittest.mock import patch

from perdure.api.gateway import Gateway
from perdure.api.replies import PlacedReply, ReplyFuture
from perdure.api.sockets.registry import SocketRegistry
from perdure.api.testing.process import Process
from perdure.objects.durable import Binding, Env
from perdure.objects.registry import ObjectType, Registry
from perdure.schemas.commands import CALL, FETCH, NOBODY, Command, call_body, command_record, sealed_record
from perdure.schemas.errors import (
    OperatorError,
    OutcomeUnknown,
    PerdureError,
    TurnEnded,
    Unavailable,
    UnknownNamespace,
)
from perdure.schemas.keys import partition_of
from perdure.schemas.migrations import Step
from perdure.schemas.replies import Reply
from perdure.schemas.seal import Seal
from perdure.streams import failpoints
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.log.base import Record, Topic
from perdure.streams.log.memory.log import Faults, MemoryBroker, MemoryLog
from perdure.streams.owner.owner import Owner
from perdure.streams.owner.recovery import live
from perdure.streams.owner.socket_watch import SILENT_S
from perdure.streams.store.memory import MemoryStore
from perdure.streams.transfer import export_objects, import_objects
from perdure.streams.turns import reruns
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.ports import (
    UNSEALED,
    Identity,
    OwnerState,
    PartitionBounds,
)
from perdure.streams.turns.reruns import Reruns
from perdure.streams.turns.run_queue import SLICE_S
from perdure.streams.virtual_time import VirtualLoop
from tests.simulation.between import check_frames
from tests.simulation.checker import Auditor, Told, check
from tests.simulation.elsewhere import Elsewhere, Way
from tests.simulation.faults_inside import faults_inside, of_a_fault
from tests.simulation.sample import (
    CRON,
    MOVED,
    OF_THE_OTHERS,
    OLD,
    ON_A_WIRE,
    ONCE,
    OPS,
    TO_SOCKETS,
    TTLS_S,
    Sample,
)
from tests.simulation.strays import stray
from tests.simulation.wires import Joining, Wire

COMMANDS = 50
TOIL_S = 0.008  # of an `add`, in runs with bursts
BURST = 16
EVENTS_ARRIVE_S = 6.0  # those for lost sockets, in the last reign; one more look is later
APP_UUID = "app-uuid"
START_MS = 1_700_000_000_000
STEP_MS = 180_000  # of all clocks, back
STAMP_SKEWS_MS = (365 * 24 * 3_600_000, -365 * 24 * 3_600_000, 25 * 3_600_000, 90_000, -90_000, 20)
_KIND = ObjectType("Sample", Sample)
_BEFORE = {"Sample": _KIND, OLD: ObjectType(OLD, Sample)}
_AFTER = {"Sample": _KIND, MOVED: ObjectType(MOVED, Sample)}
FOUNDING = Step("v1", created=(("Sample", "Sample"), (OLD, "Sample")))
MIGRATING = ("owner.moved_in", "owner.before_migration", "owner.after_migration")
MIGRATION = Step("v2", deleted=(OLD,), transferred=((MOVED, MOVED, "elsewhere"),))
_OPS = [name for name, _ in OPS]
_WEIGHTS = [weight for _, weight in OPS]
_PAIRS = [(name, other) for name in range(4) for other in range(4) if name != other]
_node: ContextVar[Node | None] = ContextVar("node", default=None)


class SimulatedCrash(BaseException):
    """Unwinds the stack of a node that died; nothing of it runs on."""


class BusyLoop(VirtualLoop):
    """Knows how long its longest pass took."""

    longest_s = _waited_s = 0.0

    def select(self, timeout: float | None) -> list[Any]:
        self.longest_s = max(self.longest_s, self.time() - self._waited_s)
        events = super().select(timeout)
        self._waited_s = self.time()
        return events


class SeededFaults(Faults):
    """Delays and fates from the run's randomness, counted."""

    def __init__(self, random: Random, counts: Counter[str], *, calm: bool) -> None:
        self.random = random
        self.counts = counts
        self.calm = calm
        self.timeout_s = 0.5
        self.appends_lost = random.choice((1, 1, 6))  # times as often as a journal's batch
        self.queued_max = 20_000

    def delay_s(self, step: str) -> float:
        roll = self.random.random()
        if self.calm or roll < 0.6:
            return 0.001
        if roll < 0.97:
            return self.random.random() * 0.02
        self.counts[f"slow {step}"] += 1
        return self.random.random() * 0.4

    def fate(self, step: str) -> str:
        if self.calm:
            return "ok"
        roll = self.random.random()
        if step == "append":
            roll /= self.appends_lost
        fate = "lost" if roll < 0.02 else "never" if roll < 0.03 else "late" if roll < 0.05 else "ok"
        if fate != "ok":
            self.counts[f"{fate} {step}"] += 1
        return fate

    def late_s(self) -> float:
        return self.random.random() * 1.5


class Door(Gateway):
    """The real gateway, with somebody looking over its shoulder."""

    node: Node

    def answer(self, reply_to: str, id_: str, reply: Reply, partition: int, offset: int) -> bool:
        mine = reply_to == self.address
        if mine and self.node.alive and id_ in self._waiting:
            self.node.run.auditor.about_to_answer(reply, partition, offset, self._waiting[id_][0])
        return super().answer(reply_to, id_, reply, partition, offset)


class StoreHandle:
    """A node's way to its store: closed by its death, and a place to die."""

    def __init__(self, node: Node, store: MemoryStore) -> None:
        self.node = node
        self.store = store

    def get(self, key: bytes) -> bytes | None:
        return self.store.get(key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Any:
        return self.store.scan(start, end, reverse=reverse)

    def write(self, removed: Any, rows: Any) -> None:
        self.node.step("store.before_write")
        if self.node.alive:
            self.store.write(removed, rows)
            self.node.step("store.after_write")

    def flush(self) -> None:
        if self.node.alive:
            self.store.flush()
            self.node.step("store.after_flush")

    def close(self) -> None:
        """Its store outlives it."""


class Node:
    """One process: a client of the log, a store of its own, an owner of every partition."""

    def __init__(self, run: Run, name: str, store: MemoryStore) -> None:
        self.run = run
        self.name = name
        self.store = store
        self.alive = True
        self.random = Random(run.random.getrandbits(32))
        self.context = copy_context()
        self.context.run(_node.set, self)
        self.steps_left = run.random.randrange(5, 400) if run.random.random() < 0.7 else 10**9
        if run.migrated and run.random.random() < 0.3:
            self.steps_left = run.random.randrange(1, 8)  # within its migration, if it is the first to begin
        self.owners: list[Owner] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.door: Door | None = None
        self.sockets: SocketRegistry | None = None
        self.ready = False
        self.died: asyncio.Future[None] = run.loop.create_future()
        self.log: MemoryLog = self.context.run(MemoryLog, run.broker, name)

    def step(self, name: str) -> None:
        """A step that matters: the node may die here."""
        if not self.alive:
            raise SimulatedCrash
        self.steps_left -= 1
        if self.steps_left <= 0 and not self.run.calm:
            self.run.crash(self, name)
            raise SimulatedCrash

    async def start(self) -> None:
        run = self.run
        kinds = _AFTER if run.migrated else _BEFORE
        samples = Binding("Sample", kinds["Sample"].methods)
        env = Env(
            {
                "random": lambda: self.random,
                "SAMPLES": samples,
                "step": self.step,
                "toil": run.toil,
                "cron": run.steps,
            }
        )
        registry = self.registry = Registry(kinds, env)
        door = self.door = Door(self.log, node=self.name, deadline_s=run.deadline_s, clock_ms=run.clock_ms)
        door.node = self
        self.sockets = SocketRegistry(door, self.log, UNSEALED, node=self.name)
        await bootstrap_log(self.log, "sim", APP_UUID)
        store = StoreHandle(self, self.store)
        activations = run.random.choice((1, 2, 200_000))
        bounds = PartitionBounds(
            mailbox=run.random.choice((3, 10_000)),
            activations=activations,
            stretch=run.random.choice((2, 10_000)),
        )
        self.owners = Process(
            self.log,
            door,
            registry,
            store,
            Identity(self.name, "sim", APP_UUID),
            clock_ms=run.clock_ms,
            random=self.random,
            new_uuid=self.uuid,
            bounds=bounds,
            migrations=(FOUNDING, MIGRATION) if run.migrated else (FOUNDING,),
            foreign_apps=Way(run.elsewhere, self.name, run.broker.partitions),
        ).owners
        await door.start(self.owners)
        self.ready = True
        self.own()
        self.task(door.sweep())
        self.task(self.keep())

    def task(self, coro: Any) -> None:
        self.tasks.append(self.run.task(coro))

    def bury(self) -> None:
        """Nothing of a dead process runs on: not its handlers, nor its timers, on a
        store that is another's now.
        """
        for owner in self.owners:
            self.context.run(owner.end_epoch)
        for task in self.tasks:
            task.cancel()

    def own(self) -> None:
        """Placement names this node: it claims what it doesn't serve."""
        for owner in self.owners:
            if owner.state in (OwnerState.NEW, OwnerState.FENCED):
                owner.state = OwnerState.BEGINNING
                self.run.auditor.named[owner.partition, self.name] += 1
                self.task(self.live(owner))

    async def live(self, owner: Owner) -> None:
        await live(owner)
        if owner.state is OwnerState.STOPPED and self.alive:
            assert owner.error is not None
            if of_a_fault(owner.error):
                self.run.counts["partitions stopped by a fault"] += 1
                self.run.broken.add(owner.partition)
                await asyncio.sleep(
                    self.random.random() * 0.5
                )  # its others go on; then somebody starts it again
                if self.alive:
                    self.run.crash(self, "a partition that has stopped")
            elif not isinstance(owner.error, Unavailable):
                self.run.failures.append(owner.error)
        if owner.state is OwnerState.FENCED:
            self.run.counts["fenced"] += 1

    def uuid(self) -> str:
        return f"{self.random.getrandbits(64):x}"

    async def keep(self) -> None:
        while self.alive:
            await asyncio.sleep(self.random.random() * 0.3)
            for owner in self.owners:
                if self.random.random() < 0.7:
                    owner.tables.freeze()
                while self.random.random() < 0.8 and owner.tables.write_memtable():
                    pass
                activations = owner.turns.activations
                for activation in [each for each in activations.values() if each.idle]:
                    if self.random.random() < 0.2:
                        owner.turns.evict(activation)
            if self.random.random() < 0.3:
                StoreHandle(self, self.store).flush()


class Run:
    """One seed's run. `log`: shared (as Kafka) or embedded."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.shared = self.random.random() < 0.65
        self.counts: Counter[str] = Counter()
        # marks of turns that ran again, of which a partition did not tell its calls
        self.not_compared: set[str] = set()
        self.compared: dict[
            str, dict[int, int]
        ] = {}  # by mark: where commands ended before the turn ran again
        self._ends_then: dict[Reruns, dict[int, int]] = {}
        self.broken: set[int] = set()  # partitions that have stopped for a fault of perdure's own
        self.calm = False
        self.migrates = self.random.random() < 0.3
        self.migrated = False  # who starts from then on has another app, with `MOVED` in place of `OLD`
        self.bursts = Random(~seed).random() < 0.2
        self.elsewhere = Elsewhere(Random(seed), START_MS)
        self.failures: list[BaseException] = []
        self.told: list[Told] = []
        self.wires: list[Wire] = []
        self.nodes: dict[str, Node] = {}
        self.stores: dict[str, MemoryStore] = {}
        # in some runs hours pass, so that client keys are forgotten; there nothing has a deadline to speak of
        self.ms_per_s = self.random.choice((1000, 1000, 1000, 20_000_000))
        self.deadline_s = self.random.choice((0.3, 5.0)) if self.ms_per_s == 1000 else 10_000_000.0
        # in some runs the broker's clock jumps, while those of the nodes are right
        self._clock_random = Random(f"clocks of {seed}")
        self.jumps = self.shared and self.ms_per_s == 1000 and self._clock_random.random() < 0.3
        self.stamp_skew_ms = 0
        self.strays = Random(f"strays in {seed}").random() < 0.2
        # in a few all clocks are ahead at first, and then step back
        self._steps = Random(f"steps of {seed}")
        self.steps = self.ms_per_s == 1000 and not self.jumps and self._steps.random() < 0.08
        self.skew_ms = STEP_MS if self.steps else 0
        self.stepped_back_ms = 0  # the right time then
        # in some the last node's log takes few appends at once: what it refuses must be appended again
        self.queued_max_at_the_end = Random(f"queue of {seed}").choice((1, 20_000))
        self._tasks: set[asyncio.Task[Any]] = set()
        self._marks = 0

    def clock_ms(self) -> int:
        return START_MS + int(self.loop.time() * self.ms_per_s) + self.skew_ms

    def latest_ms(self) -> int:
        """No clock has been further."""
        return self.clock_ms() - self.skew_ms + (STEP_MS if self.steps else 0)

    def stamp_ms(self) -> int:
        """The broker's clock."""
        return self.clock_ms() + self.stamp_skew_ms

    async def forge(self) -> None:
        """Somebody who may write to the log sends what only perdure may send,
        unsealed or with a seal of another app.
        """
        random, strangers = (
            Random(f"forger of {self.seed}"),
            Seal("another app's secret, which is not this one's"),
        )
        while True:
            await asyncio.sleep(0.2 + random.random() * 1.5)
            nodes = [node for node in self.nodes.values() if node.alive and node.ready]
            if not nodes:
                continue
            node, name = random.choice(nodes), random.randrange(4)
            self.counts["forged commands"] += 1
            client_key = f"send:0:{random.randrange(1000)}:1"
            command = Command(
                f"Sample/{name}",
                CALL,
                "pay",
                body=call_body("pay", [f"forged.{random.random()}"], {}),
                reply_to=NOBODY,
                client_key=client_key,
                principal=f"@Sample/{random.randrange(4)}",
            )
            plain = random.random() < 0.5
            record = Record(*(command_record(command) if plain else sealed_record(command, strangers)))
            partition = partition_of(command.key, self.broker.partitions)
            with suppress(SimulatedCrash, PerdureError):
                node.context.run(node.log.append, Topic.COMMANDS, partition, record)

    async def step_back(self) -> None:
        """All clocks are right from some moment on."""
        await asyncio.sleep(0.5 + self._steps.random())
        self.stepped_back_ms, self.skew_ms = self.clock_ms() - self.skew_ms, 0
        self.counts["steps back of all clocks"] += 1

    async def jump(self) -> None:
        """Let the broker's clock be wrong for a while, now and then."""
        while True:
            await asyncio.sleep(self._clock_random.random() * 0.5)
            self.stamp_skew_ms = self._clock_random.choice((0, 0, *STAMP_SKEWS_MS))
            self.counts["jumps of the broker's clock"] += 1

    def go(self) -> Counter[str]:
        """Run and check; the counts of what happened. Raises `AssertionError` naming the seed."""
        self.loop = BusyLoop()
        self.loop.set_exception_handler(self._on_error)
        failpoints.on_hit(_on_hit)
        try:
            # small, so that what moves in takes several entries, and several batches
            small = (
                patch.object(export_objects, "ENTRY_BYTES", 60),
                patch.object(import_objects, "BATCH_BYTES", 400),
            )
            with small[0], small[1], self._noted(), faults_inside(self):
                self.loop.run_until_complete(self._main())
        except Exception as error:
            raise AssertionError(f"seed {self.seed}: {error!r}; replay it: Run({self.seed}).go()") from error
        finally:
            failpoints.on_hit(None)
            for node in self.nodes.values():
                node.bury()
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(asyncio.sleep(0.01))
            self.loop.close()
        return self.counts

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Note which turns are compared with what they called before, and with what not."""
        begin, difference = Reruns.begin, Reruns.difference

        def begun(of: Reruns, backlog_end: int) -> None:
            begin(of, backlog_end)
            ends = {p: self.broker.streams[Topic.COMMANDS, p].durable for p in range(self.broker.partitions)}
            self._ends_then[of] = ends

        def compared(of: Reruns, turn: Turn, error: BaseException | None) -> Any:
            if turn.command.kind == FETCH:
                self.compared[turn.command.path.split("/")[2]] = self._ends_then[of]
            return difference(of, turn, error)

        with (
            patch.object(Reruns, "begin", begun),
            patch.object(Reruns, "difference", compared),
            patch.object(reruns, "not_compared", self._not_compared),
        ):
            yield

    def _not_compared(self, turn: Turn, partitions: list[int]) -> None:
        self.counts["not compared with all calls of then"] += 1
        if turn.command.kind == FETCH:
            self.not_compared.add(turn.command.path.split("/")[2])

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, TurnEnded):
            return  # of calls side by side, when one has ended the turn
        if isinstance(error, Exception) and not of_a_fault(error):
            self.failures.append(error)

    def task(self, coro: Any) -> asyncio.Task[Any]:
        task = self.loop.create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._task_over)
        return task

    def _task_over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self.failures.append(error)

    # The run

    async def _main(self) -> None:
        faults = SeededFaults(self.random, self.counts, calm=False)
        self.broker = MemoryBroker(
            self.random.choice((1, 2)),
            ordered=not self.shared,
            exclusive=not self.shared,
            clock_ms=self.stamp_ms,
            faults=faults,
        )
        self.auditor = Auditor(self.broker, self.elsewhere.told, self.counts, self.latest_ms)
        await self.boot("a")
        if self.shared:
            await self.boot("b")
        clients = [self.task(self.client(n)) for n in range(5)]
        troubles = [self.task(self.trouble())]
        if Random(f"forged {self.seed}").random() < 0.2:
            troubles.append(self.task(self.forge()))
        if self.steps:
            troubles.append(self.task(self.step_back()))
        if self.jumps:
            troubles.append(self.task(self.jump()))
        if self.strays:
            troubles.append(self.task(stray(self, SimulatedCrash)))
        await asyncio.gather(*clients)
        for trouble in troubles:
            trouble.cancel()
        self.stamp_skew_ms = self.skew_ms = 0
        await self.quiesce(faults)
        self.auditor.catch_up()
        if self.failures:
            raise self.failures[0]
        most_s = (
            2 * len(self.nodes) * (SLICE_S + TOIL_S)
        )  # of each node: a slice for what comes, one for its queue
        assert self.loop.longest_s <= most_s, (
            f"all waited {self.loop.longest_s:.3f} s for one pass of the loop"
        )
        final = self.nodes["final"]
        check(self, final.owners, final.store)

    async def boot(self, name: str) -> None:
        """Start a process on the store that its predecessor of that name left."""
        store = self.stores.setdefault(name, MemoryStore())
        node = self.nodes[name] = Node(self, name + str(self.counts["starts"]), store)
        self.counts["starts"] += 1
        starting = self.loop.create_task(node.start(), context=node.context)
        await asyncio.wait((starting, node.died), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        elif not starting.cancelled() and (error := starting.exception()) is not None:
            if isinstance(error, (OutcomeUnknown, Unavailable)) and node.alive:
                self.crash(node, "founding")  # its log did not answer: it is started again
            elif not isinstance(error, (OutcomeUnknown, Unavailable, SimulatedCrash)):
                raise error

    def crash(self, node: Node, where: str) -> None:
        """The process is gone: what was not durable may be lost."""
        node.alive = False
        node.log.kill()
        self.loop.call_soon(node.bury)  # not at once: this may be a step in the midst of what it does
        if not node.died.done():
            node.died.set_result(None)
        begins = any(o.state is OwnerState.BEGINNING for o in node.owners)
        phase = "beginning" if begins and where not in MIGRATING else where
        self.counts[f"crash at {phase}"] += 1
        self.counts["crashes"] += 1
        if self.broker.ordered:
            keep = self.random.random() < 0.5
            self.broker.crash(keep_in_flight=keep)
        kept = self.random.randrange(node.store.unflushed + 1)
        self.counts["store writes forgotten"] += node.store.unflushed - kept
        node.store.crash(kept)
        if node.door is not None:
            for asker, _ in node.door._waiting.values():
                asker.failed(ConnectionResetError())
        for wire in self.wires:
            if wire.node is node:
                wire.cut()
        self.counts["evictions"] += sum(owner.counts.evictions for owner in node.owners)

    async def trouble(self) -> None:
        """Crash, stall, restart and take over at random moments."""
        while True:
            await asyncio.sleep(self.random.random() * 0.3)
            name = self.random.choice(list(self.nodes))
            node = self.nodes[name]
            if not node.alive:
                await self.boot(name)
                continue
            roll = self.random.random()
            if roll < 0.25:
                self.crash(node, "a random moment")
                self.counts["crash at a random moment with commands in flight"] += bool(
                    node.door and node.door.waiting
                )
            elif self.shared and roll < 0.45:
                self.counts["stalls"] += 1
                node.log.stalled_until_s = self.loop.time() + self.random.random() * 2
            elif self.shared and roll < 0.9:
                self.counts["take-overs"] += 1
                node.context.run(node.own)
            elif self.migrates and roll > 0.9 and not self.migrated:
                self.migrated = True
                self.counts["migrations"] += 1
                for each in [each for each in self.nodes.values() if each.alive]:
                    self.crash(each, "a migration")

    def toil(self) -> None:
        """What an `add` costs of the processor's time."""
        if self.bursts:
            self.loop.spend(TOIL_S)

    async def burst(self) -> None:
        """More for one object, all at once, than all others should wait for."""
        self.counts["bursts"] += 1
        key, now_s = f"Sample/{self.random.randrange(4)}", self.loop.time()
        self._marks += BURST
        marks = range(self._marks - BURST, self._marks)
        await asyncio.gather(*(self._try(Told(key, "add", f"b-{n}", None, now_s, "0")) for n in marks))

    async def client(self, number: int) -> None:
        for n in range(COMMANDS // 5):
            await asyncio.sleep(self.random.random() * 0.05)
            if self.bursts and number == 0 and n % 4 == 0:
                await self.burst()
            await self.ask(number)
        while self.counts["crashes"] < 2 or (self.shared and self.auditor.claims < 2):
            await self.ask(number)
            await asyncio.sleep(0.05)

    async def ask(self, number: int) -> None:
        """One command, retried with its idempotency key until its outcome is known (if it has one)."""
        name, other = self.random.choice(_PAIRS)
        op = self.random.choices(_OPS, _WEIGHTS)[0]
        namespace = "Sample"
        if self.migrates and op in OF_THE_OTHERS and self.random.random() < 0.3:
            namespace = self.random.choice((OLD, MOVED)) if self.migrated else OLD
        if op in ON_A_WIRE:
            await self._on_a_wire(op)
            return
        if op in TO_SOCKETS and (wires := self._open_wires()):
            name = int(self.random.choice(wires).key.rpartition("/")[2])
        self._marks += 1
        mark = f"{number}-{self._marks}"
        keyed = 0.5 if op in ONCE else 0.2
        client_key = mark if op != "connect" and self.random.random() < keyed else None
        for _ in range(8):
            told = Told(f"{namespace}/{name}", op, mark, client_key, self.loop.time(), str(other))
            if await self._try(told):
                if op == "lease":
                    await self._look_when_it_ends(told)
                return
            await asyncio.sleep(self.random.random() * 0.2)
            if client_key is None and (op in ONCE or not told.nothing_changed):
                return

    async def _look_when_it_ends(self, lease: Told) -> None:
        """Before it is swept, if it ends when it is guessed that it does."""
        ends_s = lease.asked_s + self.random.choice(TTLS_S) + self.random.random() * 0.005
        await asyncio.sleep(max(ends_s - self.loop.time(), 0))
        self._marks += 1
        await self._try(Told(lease.key, "look", f"look-{self._marks}", None, self.loop.time(), lease.other))

    def _open_wires(self) -> list[Wire]:
        return [each for each in self.wires if each.joined and not each.gone and each.node.alive]

    async def _on_a_wire(self, op: str) -> None:
        """The far end of some open socket says something, or goes."""
        self.counts["commands"] += 1
        wires = self._open_wires()
        if not wires:
            return
        wire = self.random.choice(wires)
        with suppress(SimulatedCrash):  # its node dies of what is said
            if op == "leave":
                wire.node.context.run(wire.leave)
            elif wire.heard is None or wire.heard.done():
                await wire.node.context.run(wire.speak)

    async def _try(self, told: Told) -> bool:
        doors = [node for node in self.nodes.values() if node.alive and node.ready]
        if not doors:
            told.nothing_changed = True
            return False
        node = self.random.choice(doors)
        self.counts["commands"] += 1
        try:
            told.waiting = waiting = node.context.run(self._submit, node, told)
            told.answer = await waiting.future
        except UnknownNamespace:
            self.counts["deleted namespaces refused"] += 1
            return True
        except (Unavailable, OperatorError):
            told.nothing_changed = True
            self.counts["unavailable"] += 1
            return False
        except (ConnectionResetError, OutcomeUnknown):
            self.counts["unknown outcomes"] += 1
            return False
        except SimulatedCrash:
            return False
        told.answered_s = self.loop.time()
        self.told.append(told)
        self.counts["answers"] += 1
        code = told.answer.reply.error.code if told.answer.reply.error else ""
        told.nothing_changed = told.answer.reply.outcome == "unavailable" or code == "key-in-flight"
        if told.nothing_changed:
            self.counts[f"told {code}"] += 1
        return not told.nothing_changed

    def _submit(self, node: Node, told: Told) -> ReplyFuture:
        assert node.door is not None
        assert node.sockets is not None
        node.registry.type_of(told.key.partition("/")[0])  # as doors do
        waiting, socket = ReplyFuture(), ""
        if told.op == "connect":
            wire = Wire(node, node.sockets, told.key)
            self.wires.append(wire)
            waiting, socket = Joining(wire), wire.asked
        path = f"/{told.op}/{told.mark}/{told.other}"
        node.door.submit(waiting, told.key, FETCH, "POST", path, (), b"", told.client_key, socket=socket)
        return waiting

    async def quiesce(self, faults: SeededFaults) -> None:
        """No more faults: everybody dies once more, and one owner brings all that was asked to its end."""
        faults.calm = self.calm = True
        if self.random.random() < 0.3:
            await self.settle()
        for node in self.nodes.values():
            if node.alive:
                self.crash(node, "the end")
        await asyncio.sleep(10)  # late batches land
        store = self.stores[self.random.choice(list(self.stores))]
        self.stores["final"] = store
        faults.queued_max = self.queued_max_at_the_end
        await self.boot("final")
        owners = self.nodes["final"].owners
        async with asyncio.timeout(200 + 2 * SILENT_S + EVENTS_ARRIVE_S):
            while not all(self._caught_up(owner) for owner in owners):
                if self.failures:
                    raise self.failures[0]
                await asyncio.sleep(0.05)
            if (
                self.shared
            ):  # three looks find that the gateways of the dead are silent, two if all partitions were there
                await asyncio.sleep(2 * SILENT_S + EVENTS_ARRIVE_S)
            for owner in owners:
                owner.journal.sign_off()
            while not all(owner.idle for owner in owners):  # noqa: ASYNC110 - virtual time: nothing is waited for
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)

    async def settle(self) -> None:
        """All is well again, and nobody has died: what lives is sent all that it
        was due (if it gets that far).
        """
        living = [node for node in self.nodes.values() if node.alive and node.ready]
        if not living:
            return
        living[0].context.run(living[0].own)
        owners = [owner for node in living for owner in node.owners]
        for _ in range(400):
            await asyncio.sleep(0.05)
            done = {owner.partition for owner in owners if self._caught_up(owner)}
            if len(done) == self.broker.partitions:
                await asyncio.sleep(5)
                self.auditor.catch_up()
                self.counts["settled"] += 1
                check_frames(self, whole=True)
                return
        self.counts["not settled"] += 1

    def _caught_up(self, owner: Owner) -> bool:
        """All that was asked of it is done, and all that came of it has arrived."""
        if owner.state is not OwnerState.SERVING or not owner.idle:
            return False
        commands = self.broker.streams[Topic.COMMANDS, owner.partition]
        waiting = owner.tables.alarms.due((0, "", ""), 1 << 60)
        quiet = all(name == CRON for _, _, name in waiting)
        marks = owner.tables.done.mark, owner.output.commands.mark
        return quiet and min(marks) >= commands.end == commands.durable


def _on_hit(name: str) -> None:
    node = _node.get()
    if node is not None:
        node.step(name)


__all__ = ["Context", "PerdureError", "PlacedReply", "Run"]
