"""An object's storage as a turn sees it: an overlay of the turn's own writes over what was committed.

Laws
- A turn reads its own writes. No other turn or client sees them until the turn commits. [test_state_model.py]
- Values are stored and returned as copies.
- The handle works inside its turn only; code that outlives the turn gets `TurnEnded`.
- A turn that met a storage failure cannot write any more and never commits.
- A value that has expired by the command's log time is not there, for any method. Its row goes later, by
  `sweep`: each put of an expiring value also writes a hidden name, which no user can give or see.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from inspect import isawaitable
from typing import Any, TypeVar, cast, overload

from perdure.objects.alarms import AlarmMethods
from perdure.objects.drawing import RandomMethods
from perdure.objects.expiration import expires_at
from perdure.objects.expiry_sweep import ExpirySweep
from perdure.objects.location import LocationMethods
from perdure.objects.models import fitted
from perdure.objects.names import ObjectId, each_named, named, utf8_bytes
from perdure.objects.overlay import Overlay, TurnLimits, View, current_turn
from perdure.objects.ports import Caller
from perdure.objects.ranges import RangeMethods
from perdure.objects.sockets import ListenerSocket, SocketMethods, WebSocket
from perdure.objects.transaction import Transaction
from perdure.schemas.errors import StorageFailed, TooLarge, TurnEnded
from perdure.schemas.expiry import EXT_32, FIRST_NAME, NOTED, expiry_of, hidden_name, is_due, with_expiry
from perdure.schemas.values import decode_value, encode_value

_ABSENT: Any = object()
_Made = TypeVar("_Made")
_Default = TypeVar("_Default")
_Seconds = float | None
_OUTSIDE_A_TURN = Overlay()  # of handles between their turns, which write nothing


class State(RangeMethods, AlarmMethods, SocketMethods, ExpirySweep, LocationMethods, RandomMethods):
    """`self.state`: the object's durable storage. All that a turn writes is committed together when it ends.

    It maps names (str, 1 to 2,048 bytes, not beginning with NUL) to values: None, bool, int of any size,
    float, str, bytes, datetime, Decimal, UUID, list, tuple, set, dict, each at most 1 MiB. A turn writes at
    most 8 MiB. What comes out is a copy. A whole turn is one transaction: a handler that raises has written
    nothing.

        await self.state.put("cart", {"items": 3}, expiration_ttl=3600)
        cart = await self.state.get("cart", type=Cart)

    A value put with `expiration` or `expiration_ttl` is gone for every method once `now` reaches its time;
    its row is removed soon after. Each method raises `TurnEnded` outside the object's turn, `StorageFailed`
    if the disk fails.
    """

    __slots__ = (
        "_key",
        "_limits",
        "_listening",
        "_now_ms",
        "_overlay",
        "_sockets",
        "_turn",
        "_view",
        "innermost",
    )

    def __init__(self, key: str, view: View, limits: TurnLimits) -> None:
        self._key = key
        self._view = view
        self._limits = limits
        self._turn: object = None
        self._overlay = _OUTSIDE_A_TURN
        self._now_ms = 0
        self.innermost: Transaction | None = None  # entered last; one of a turn that is over does not count
        self._sockets: dict[str, WebSocket] | None = None  # those that were used, by id
        self._listening: dict[str, ListenerSocket] | None = None  # those the instance listens to

    @property
    def id(self) -> ObjectId:
        """The id of the object."""
        return ObjectId(self._key)

    @property
    def storage(self) -> State:
        """The state itself, as `ctx.storage` is called on Cloudflare."""
        return self

    @property
    def now(self) -> int:
        """The time of the command on the log, in ms since 1970; a turn that runs again sees the same."""
        self.inside()
        return self._now_ms

    @property
    def principal(self) -> str:
        """The sender of the command: see `Request.principal`. Empty where access is not guarded."""
        self.inside()
        return cast("Caller", self._turn).principal

    @overload
    async def get(self, name: str, default: Any = None) -> Any: ...
    @overload
    async def get(  # type: ignore[overload-overlap]  # a str is an Iterable[str] too: the first that fits counts
        self, name: str, default: None = None, *, type: type[_Made]
    ) -> _Made | None: ...
    @overload
    async def get(self, name: str, default: _Default, *, type: type[_Made]) -> _Made | _Default: ...
    @overload
    async def get(self, name: str, default: Any = None, *, type: Any) -> Any: ...
    @overload
    async def get(self, name: Iterable[str]) -> dict[str, Any]: ...
    @overload
    async def get(self, name: Iterable[str], *, type: type[_Made]) -> dict[str, _Made]: ...
    @overload
    async def get(self, name: Iterable[str], *, type: Any) -> dict[str, Any]: ...
    # only the overloads say that options are keywords: said here, it costs 3.11's specialized call
    async def get(self, name: Any, default: Any = None, type: Any = None) -> Any:
        """A copy of the value stored under `name`; for several names, a dict of those that are stored.

        name: one name, or several (the dict keeps their order).
        default: returned if `name` is not stored; for one name only.
        type: what to make of the value: a pydantic model, a dataclass, a msgspec Struct, or any type that
            pydantic validates. Store its dict: `put("user", user.model_dump())`.

        Raises `UnfitValue` (a ValueError) if what is stored does not fit `type`,
        TypeError for a name that is not a str.
        """
        try:
            if name < FIRST_NAME:
                named(name)
        except TypeError:  # no str
            names = each_named(name)
        else:
            encoded = self._lookup(name)
            if encoded is None or (encoded[0] == EXT_32 and is_due(encoded, self._now_ms)):
                return default
            value = decode_value(encoded)
            return value if type is None else fitted(value, type, self._key, name)
        return self._get_each(names, default, type)

    def _get_each(self, names: list[str], default: Any, kind: Any) -> dict[str, Any]:
        if default is not None:
            raise TypeError("get of several names takes no default: those that are not there are left out")
        values = {}
        for name in names:
            encoded = self._lookup(name)
            if encoded is not None and not is_due(encoded, self._now_ms):
                value = decode_value(encoded)
                values[name] = value if kind is None else fitted(value, kind, self._key, name)
        return values

    @overload
    async def put(
        self, name: str, value: Any, /, *, expiration: _Seconds = None, expiration_ttl: _Seconds = None
    ) -> None: ...
    @overload
    async def put(
        self, values: Mapping[str, Any], /, *, expiration: _Seconds = None, expiration_ttl: _Seconds = None
    ) -> None: ...
    async def put(
        self,
        name: str | Mapping[str, Any],
        value: Any = _ABSENT,
        /,
        expiration: _Seconds = None,
        expiration_ttl: _Seconds = None,
    ) -> None:
        """Store a value under a name, or each of a mapping, in place of a stored value and its expiration.

        name: 1 to 2,048 bytes of UTF-8 that do not begin with NUL, or a mapping of names to values.
        value: the value, at most 1 MiB encoded (`limits.value_bytes`); none with a mapping.
        expiration: when the value expires, in seconds since 1970 (int or float).
        expiration_ttl: instead, in how many seconds from `now` it expires.

        Raises `UnstorableValue` (a TypeError) for a type that cannot be stored, `TooLarge` over a limit,
        ValueError for an expiration that has passed, a ttl not above 0 or a time after the year 9999. If one
        value of a mapping cannot be stored, none is.
        """
        if expiration is expiration_ttl is None and isinstance(name, str) and value is not _ABSENT:
            self._write(name, encode_value(name, value))
            return
        if isinstance(name, str):
            if value is _ABSENT:
                raise TypeError("put(name, value) or put({name: value, …})")
            name = {name: value}
        elif not isinstance(name, Mapping) or value is not _ABSENT:
            raise TypeError(
                f"put(name, value) or put({{name: value, …}}); a name is not a {type(name).__name__}"
            )
        self._put_each(name, expiration, expiration_ttl)

    @overload
    async def delete(self, name: str) -> bool: ...
    @overload
    async def delete(self, name: Iterable[str]) -> int: ...
    async def delete(self, name: str | Iterable[str]) -> bool | int:
        """Remove `name`; True if it was stored. For several names: how many of them were stored."""
        if isinstance(name, str):
            return self._delete(named(name))
        return sum([self._delete(each) for each in each_named(name)])

    async def delete_all(self) -> None:
        """Remove every value and every alarm of the object. Its WebSockets stay."""
        self._writable().clear()

    @overload
    def transaction(self) -> Transaction: ...
    @overload
    def transaction(
        self, closure: Callable[[Transaction], Awaitable[_Made]]
    ) -> Coroutine[Any, Any, _Made]: ...
    @overload
    def transaction(self, closure: Callable[[Transaction], _Made]) -> Coroutine[Any, Any, _Made]: ...
    def transaction(self, closure: Callable[[Transaction], Any] | None = None) -> Any:
        """A part of the turn that is kept or undone as a whole.

            async with self.state.transaction() as txn:
                await self.state.put("a", 1)        # or txn.put
                if not enough:
                    txn.rollback()

        `txn.rollback()`, or an exception that leaves the block, undoes what was written in it; the exception
        goes on. Blocks nest. The whole turn is a transaction anyway: this is for a handler that goes on after
        a failed part.

        closure: instead of the block, a function, async or not: `await transaction(closure)` calls it with
            the transaction and returns its result, as on Cloudflare.
        """
        return Transaction(self) if closure is None else self._transact(closure)

    async def _transact(self, closure: Callable[[Transaction], Any]) -> Any:
        async with Transaction(self) as txn:
            result = closure(txn)
            return await result if isawaitable(result) else result

    async def sync(self) -> None:
        """Wait until the command, and what the turn has read, is durable: before
        something leaves the process.

        The turn's own writes are not included. Calls of stubs and `perdure.fetch` wait by themselves.
        """
        self.inside()
        await cast("Caller", self._turn).synced()

    # For the turn

    def begin(self, turn: object, overlay: Overlay, now_ms: int) -> None:
        """Bind the handle to a turn."""
        self._turn, self._overlay, self._now_ms = turn, overlay, now_ms

    def end(self) -> None:
        """Release the handle from its turn."""
        self._turn = None

    @property
    def used_ms(self) -> int:
        """The log time of the last turn."""
        return self._now_ms

    def inside(self) -> Overlay:
        """The overlay of the running turn. Raises `TurnEnded` outside it."""
        if current_turn.get() is not self._turn:
            raise TurnEnded(
                f"the state of {self.id} was used outside its turn: await what you start inside the handler"
            )
        return self._overlay

    def _lookup(self, name: str) -> bytes | None:
        overlay = self._overlay if current_turn.get() is self._turn else self.inside()
        encoded = overlay.changes.get(name, _ABSENT)
        if encoded is not _ABSENT:
            return encoded  # type: ignore[no-any-return]  # _ABSENT is Any
        if overlay.cleared:
            return None
        try:
            return self._view.get(name)
        except UnicodeEncodeError:
            return None  # half a surrogate pair: no such name can have been put
        except Exception as error:
            overlay.failure = error
            raise

    def _writable(self) -> Overlay:
        overlay = self.inside()
        if overlay.failure is not None:
            raise StorageFailed(
                f"{self.id} met a storage failure in this turn, which therefore cannot write: {overlay.failure}"
            ) from overlay.failure
        return overlay

    def _write(self, name: str, encoded: bytes | None) -> None:
        overlay, limits = self._overlay, self._limits
        if overlay.failure is not None or current_turn.get() is not self._turn:
            self._writable()  # says what is wrong
        if type(name) is not str or name < FIRST_NAME:
            named(name)
        name_bytes = len(name) if name.isascii() else utf8_bytes(name)
        if name_bytes > limits.key_bytes or not name:
            raise TooLarge(
                f"a name in state has 1 to {limits.key_bytes} bytes (limits.key_bytes); {name[:40]!r} has {name_bytes}"
            )
        value_bytes = 0 if encoded is None else len(encoded)
        if value_bytes > limits.value_bytes:
            raise TooLarge(
                f"state[{name!r}] has {value_bytes} bytes; a value may have {limits.value_bytes} "
                "(limits.value_bytes): split it over several names"
            )
        size_bytes = overlay.size_bytes + name_bytes + value_bytes
        changes = overlay.changes
        before = changes.get(name, _ABSENT)
        if before is not _ABSENT:
            size_bytes -= name_bytes + (0 if before is None else len(before))
        if size_bytes > limits.turn_bytes:
            raise TooLarge(
                f"this turn of {self.id} writes over {limits.turn_bytes} bytes (limits.turn_bytes): "
                "spread it over several commands"
            )
        overlay.size_bytes = size_bytes
        changes[name] = encoded

    def _put_each(self, values: Mapping[str, Any], expiration: _Seconds, expiration_ttl: _Seconds) -> None:
        encoded = [(name, encode_value(name, value)) for name, value in values.items()]
        if expiration is expiration_ttl is None:
            for name, data in encoded:
                self._write(name, data)
            return
        expires_ms = expires_at(self.now, expiration, expiration_ttl)
        for name, data in encoded:
            self._write_expiring(name, data, expires_ms)

    def _write_expiring(self, name: str, encoded: bytes, expires_ms: int) -> None:
        self._write(name, with_expiry(encoded, expires_ms))
        overlay = self._overlay
        overlay.set(hidden_name(expires_ms, name), NOTED)
        if overlay.first_expiry is None or expires_ms < overlay.first_expiry:
            overlay.first_expiry = expires_ms

    def _delete(self, name: str) -> bool:
        encoded = self._lookup(name)
        if encoded is None:
            return False
        expires_ms = expiry_of(encoded)
        if expires_ms is not None and expires_ms <= self._now_ms:
            return False
        self._write(name, None)
        if expires_ms is not None:
            self._overlay.set(hidden_name(expires_ms, name), None)
        return True
