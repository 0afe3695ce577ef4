"""Tests of an app's objects: the real owner, turns and journal, on a log and a
store in memory and on virtual time.

    from perdure.testing import story, world
    from app import Counter

    @story
    async def test_a_count_survives_a_crash() -> None:
        async with world(Counter, vars={"STEP": 2}) as env:
            alice = env.Counter.get("alice")
            assert await alice.increment(2) == 2                      # a method, called as over HTTP
            response = await alice.fetch("/", method="POST")          # a request
            assert response.body == b'{"count":3}'
            await env.advance(3600)                                   # an hour passes, at once
            await env.restart()                                       # killed, and started again
            assert env.state(alice) == {"count": 3}

Objects call and send to each other as in a server. `env.alarms(alice)` returns when her alarms are due
(`advance` runs them), and `await env.connect(alice)` opens a WebSocket to her.

`@story` turns the coroutine into a plain test function, which pytest runs with its fixtures, without a
plugin. `run(main())` does the same for a coroutine. A test of an hour takes milliseconds, and runs the same
way each time.

Laws
- Nothing here decides what an object does: a call goes through a gateway, a log and an owner as in a server
  on the embedded log. The result of a call is durable.
- Time is virtual: when the test or a handler waits, it moves to the next moment at which something happens.
  Threads and sockets do not work there; give the objects test doubles for them (`vars`).
- `restart` loses what a SIGKILL may lose: the batch in flight, and what the store had not flushed. `seed`
  decides which part of it.

[test_testing.py]
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping
from itertools import count
from random import Random
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from perdure.api.gateway import Gateway
from perdure.api.node import bounds_of
from perdure.api.replies import ReplyFuture
from perdure.api.sockets.registry import SocketRegistry
from perdure.api.testing.process import Process
from perdure.api.testing.sockets import End, Socket, SocketClosed
from perdure.api.testing.stubs import Namespace, Stub
from perdure.objects.durable import DurableObject, Env
from perdure.objects.http import FetchedResponse, Request, Response
from perdure.objects.registry import Registry
from perdure.objects.stubs import answered, error_of
from perdure.schemas.commands import FETCH, Command
from perdure.schemas.config import Config, parse_config, record_rules
from perdure.schemas.config_model import BindingConfig, DurableObjects
from perdure.schemas.errors import (
    Unavailable,
)
from perdure.schemas.keys import namespace_of, partition_of
from perdure.schemas.replies import Pairs, Reply
from perdure.schemas.seal import Seal
from perdure.schemas.values import decode_value
from perdure.streams.journal.bootstrap import bootstrap_log
from perdure.streams.log.memory.broker import MemoryBroker
from perdure.streams.log.memory.log import MemoryLog
from perdure.streams.owner.owner import Owner
from perdure.streams.store.memory import MemoryStore
from perdure.streams.turns.activation import Activation
from perdure.streams.turns.ports import Identity
from perdure.streams.turns.supervision import unawaited
from perdure.streams.turns.supervision.watchdog import Watchdog
from perdure.streams.virtual_time import VirtualLoop

__all__ = ["Namespace", "Socket", "SocketClosed", "Stub", "World", "run", "story", "world"]

START_MS = 1_700_000_000_000  # where the clock of a world starts: 2023-11-14 22:13:20 UTC
PARTITIONS = 2
_UUID = "world"
_P = ParamSpec("_P")
_T = TypeVar("_T")
Answering = Callable[[Request], Coroutine[Any, Any, Response]]


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on virtual time to its end, and return its result."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def story(test: Callable[_P, Coroutine[Any, Any, _T]]) -> Callable[_P, _T]:
    """A decorator that makes an `async def` test a plain function which runs it on virtual time.

    pytest needs no plugin for it; fixtures are passed on.
    """

    @functools.wraps(test)
    def run_test(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return run(test(*args, **kwargs))

    return run_test


class _Outside:
    """The transport of `perdure.fetch` in a test, which calls the test's own function."""

    def __init__(self, answer: Answering) -> None:
        self._answer = answer

    async def request(
        self, method: str, url: str, headers: Pairs, body: bytes, timeout_s: float | None
    ) -> FetchedResponse:
        response = await self._answer(Request(method, url, headers, body))
        return FetchedResponse(response.status, response.headers, response.body)


class World:
    """An app under test: what `async with world(…) as env` gives.

    `env.NAME` is the `Namespace` of a class, by the class's name or its binding.

    registry: the classes of the app.
    config: its configuration, with the limits that are to hold.
    seed: of all randomness in the world: the same seed, the same run.
    outside: answers `perdure.fetch`; None: no request is expected, and one fails.
    """

    def __init__(self, registry: Registry, config: Config, seed: int, outside: Answering | None) -> None:
        self._outside = None if outside is None else _Outside(outside)
        self._registry = registry
        self._config = config
        self._random = Random(seed)
        self._loop = asyncio.get_running_loop()
        self._uuids = count()
        self._starts = count()
        self._broker = MemoryBroker(PARTITIONS, clock_ms=self._clock_ms)
        self._store = MemoryStore()
        self._ends: list[End] = []
        self._homes = {kind.cls.__name__: namespace for namespace, kind in registry.types.items()}
        self._homes |= {each.name: self._homes[each.class_name] for each in config.bindings}
        self._homes |= {namespace: namespace for namespace in registry.types}

    def __getattr__(self, name: str) -> Namespace:
        home = self.__dict__.get("_homes", {}).get(name)
        if home is None:
            raise AttributeError(
                f"this world has no {name!r}; it has: {', '.join(self.__dict__.get('_homes', ()))}"
            )
        return Namespace(self.ask, self._registry.types[home])

    async def __aenter__(self) -> Self:
        limits = self._config.limits
        self._watchdog = Watchdog(
            step_s=limits.step_s, hold_s=limits.hold_s
        )  # true time: a loop ends nowhere else
        self._watchdog.start()
        self._unwatch = unawaited.watch()
        try:
            await self._begin()
        except BaseException:
            self._end_watching()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._end()
        finally:
            self._end_watching()

    def _end_watching(self) -> None:
        try:
            self._watchdog.stop()
        finally:
            self._unwatch()

    # Time

    @property
    def now(self) -> int:
        """The virtual time, in ms since 1970."""
        return self._clock_ms()

    async def advance(self, seconds: float) -> None:
        """Let `seconds` of virtual time pass.

        Alarms that come due run, in order; then the store is flushed.
        """
        await asyncio.sleep(seconds)
        for owner in self._process.owners:
            owner.tables.write_all()
        self._store.flush()

    # Objects

    def state(self, stub: Stub) -> dict[str, Any]:
        """All values of the object, by name, as its next turn would see them."""
        rows = self._view(stub.key).scan("", None, reverse=False)
        return {name: decode_value(value) for name, value in rows if not name.startswith("\0")}

    def alarms(self, stub: Stub) -> dict[str, int]:
        """When each alarm of the object is due, in ms since 1970, by its name; without parked ones."""
        rows = self._view(stub.key).alarms()
        return {name: row.due_ms for name, row in rows.items() if name.isprintable() and not row.parked}

    async def connect(
        self, stub: Stub, path: str = "/", *, headers: Mapping[str, str] | None = None
    ) -> Socket:
        """Open a WebSocket to the object.

        stub: the object.
        path: the path below the object, with its query.
        headers: headers of the request.

        Raises what its `fetch` raised, `SocketClosed` with the status if it answered anything but 101.
        """
        end = End(self._sockets, stub.key)
        pairs = tuple((name.lower(), value) for name, value in (headers or {}).items())
        pairs += (("upgrade", "websocket"),)
        self._gateway.submit(end, stub.key, FETCH, "GET", path, pairs, socket=end.socket)
        reply = await end.reply
        if reply.error is not None:
            raise error_of(reply)
        if reply.status != 101:
            raise SocketClosed(reply.status, reply.body.decode("utf-8", "replace"))
        self._ends.append(end)
        return Socket(end)

    async def crash(self, stub: Stub) -> None:
        """Drop the object from memory, once its running command has ended.

        Its attributes are lost, its state stays.
        """
        turns = self._owner(stub.key).turns
        while (activation := turns.activations.get(stub.key)) is not None and not activation.idle:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.001)
        if activation is not None:
            turns.evict(activation)

    async def restart(self) -> None:
        """Kill the process and start another one on the data it left.

        Calls that wait raise `OutcomeUnknown`.
        """
        self._log.kill()
        for owner in self._process.owners:
            if self._random.random() < 0.5:
                owner.tables.freeze()
            while self._random.random() < 0.5 and owner.tables.write_memtable():
                pass
        self._store.crash(self._random.randrange(self._store.unflushed + 1))
        self._broker.crash(keep_in_flight=self._random.random() < 0.5)
        await self._end()
        await self._begin()

    async def break_storage(self, stub: Stub) -> None:
        """Make every read of the object's state fail, until `heal_storage`.

        The object is dropped from memory first.
        """
        await self.crash(stub)
        owner = self._owner(stub.key)
        owner.tables.write_all()
        self._store.broken.add(owner.tables.values.prefix(stub.key))

    def heal_storage(self, stub: Stub) -> None:
        """Make the object's state readable again."""
        self._store.broken.discard(self._owner(stub.key).tables.values.prefix(stub.key))

    async def ask(self, command: Command, client_key: str | None) -> Reply:
        """Send a command and return its reply. Stubs use it; a test seldom does.

        command: the command.
        client_key: its idempotency key, None for none.

        Raises the error that the reply carries.
        """
        waiting = ReplyFuture()
        key, kind, method, path = command.key, command.kind, command.method, command.path
        self._gateway.submit(waiting, key, kind, method, path, command.headers, command.body, client_key)
        return answered((await waiting.future).reply)

    # The node

    async def _begin(self) -> None:
        config, registry = self._config, self._registry
        self._log = log = MemoryLog(self._broker, f"start {next(self._starts)}")
        await bootstrap_log(log, config.name, _UUID)
        self._gateway = gateway = Gateway(
            log, node=f"w{next(self._uuids)}", deadline_s=config.deadline_s, clock_ms=self._clock_ms
        )
        self._sockets = SocketRegistry(gateway, log, Seal(_UUID), node=f"s{next(self._uuids)}")
        self._process = process = Process(
            log,
            gateway,
            registry,
            self._store,
            Identity("world", config.name, _UUID),
            clock_ms=self._clock_ms,
            random=self._random,
            seal=Seal(_UUID),
            new_uuid=lambda: f"u{next(self._uuids)}",
            bounds=bounds_of(config),
            outside=self._outside,
            rules=record_rules(config),
        )
        await gateway.start(process.owners)
        process.begin()
        while process.starting:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.001)
        for owner in process.owners:
            if owner.error is not None:
                raise owner.error

    async def _end(self) -> None:
        self._gateway.close(Unavailable("the process was killed"))
        while self._ends:
            self._ends.pop().died()
        await self._process.end()
        self._log.kill()

    def _clock_ms(self) -> int:
        return START_MS + int(self._loop.time() * 1000)

    def _owner(self, key: str) -> Owner:
        return self._process.owners[partition_of(key, PARTITIONS)]

    def _view(self, key: str) -> Activation:
        owner = self._owner(key)
        activation = owner.turns.activations.get(key)
        return activation or Activation(
            key, self._registry.type_of(namespace_of(key)), owner.tables, owner.bounds.limits
        )


def world(
    *classes: type[DurableObject],
    vars: Mapping[str, Any] | None = None,
    bindings: Mapping[str, str] | None = None,
    config: str = "",
    env: str | None = None,
    outside: Answering | None = None,
    seed: int = 0,
) -> World:
    """An app of these classes, for `async with world(Counter) as env`.

    classes: the app's classes; each is bound in `self.env` under its own name.
    vars: values of `self.env`, of any type; test doubles too.
    bindings: further names in `self.env`, each with a class's name.
    config: the text of a `perdure.toml`.
    env: the environment whose `[env.NAME]` is used.
    outside: answers `perdure.fetch`: an async function of the `Request`, whose `path` is the URL, to a
        `Response`.
    seed: decides what `restart` loses; the same seed gives the same run.

    Raises `ConfigError` for a configuration that does not fit the classes, RuntimeError outside `story` and
    `run`.
    """
    if not isinstance(asyncio.get_running_loop(), VirtualLoop):
        raise RuntimeError(  # noqa: TRY004 - no argument has a wrong type
            "a world runs on virtual time, and this event loop's time is real: decorate the test with "
            "@perdure.testing.story (and take pytest-asyncio's or anyio's mark off), or call perdure.testing.run(...)"
        )
    parsed = parse_config(config, "perdure.toml", env_name=env, default_name="world")
    if bindings:
        bound = tuple(
            BindingConfig(name=name, class_name=class_name) for name, class_name in bindings.items()
        )
        bound = parsed.bindings + bound
        parsed = Config.model_validate(dict(parsed) | {"durable_objects": DurableObjects(bindings=bound)})
    registry = Registry.build({cls.__name__: cls for cls in classes}, parsed)
    registry.env = Env({**registry.env.__dict__, **(vars or {})})
    return World(registry, parsed, seed, outside)
