"""An object's storage as a turn sees it: an overlay of the turn's own writes over what was committed.

Laws
- A turn reads its own writes. Nothing of the overlay is seen by anybody until the turn commits; rollback
  is forgetting it.
- Values go in and come out as copies.
- The handle works inside its turn only; code that outlives the turn meets `TurnEnded`.
- A turn that met a storage failure cannot write any more and never commits.
- Names are sorted by their UTF-8 bytes, which is the order of Python's str.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, AnyStr, Protocol, overload

from perdure.objects.effects import Effects
from perdure.objects.sockets import ListenerSocket, Sockets, WebSocket
from perdure.schemas.effects import AlarmRow, SocketRow
from perdure.schemas.errors import ObjectError, StorageFailed, TooLarge, TurnEnded, UnstorableValue
from perdure.schemas.keys import name_of
from perdure.schemas.values import decode_value, encode_value

MAX_LISTED = 1000  # names on one page of list(), unless limit= says less
_ABSENT: Any = object()

current_turn: ContextVar[object] = ContextVar("perdure_turn")


class View(Protocol):
    """The committed state of one object, as the turn's port."""

    def get(self, name: str) -> bytes | None:
        """The encoded value. Raises `StorageFailed` or `StoreCorrupt`."""

    def scan(self, start: str, end: str | None, *, reverse: bool) -> Iterator[tuple[str, bytes]]:
        """Names and encoded values with start <= name < end, in order. Raises like `get`."""

    def alarms(self) -> dict[str, AlarmRow]:
        """The object's alarms by name, parked ones too."""

    def sockets(self) -> Mapping[str, SocketRow]:
        """The object's WebSockets by id, not to be changed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one turn, in bytes."""

    key_bytes: int = 2048
    value_bytes: int = 1 << 20
    turn_bytes: int = 8 << 20


@dataclass(frozen=True, slots=True)
class ListedKey:
    name: str
    expiration: int | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of names: `cursor` continues it (as `start_after`), None when `list_complete`."""

    keys: list[ListedKey] = field(default_factory=list)
    list_complete: bool = True
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectId:
    """Who the object is: `key` is `Namespace/name`."""

    key: str

    @property
    def name(self) -> str:
        return name_of(self.key)

    def __str__(self) -> str:
        return self.key


class Overlay:
    """What one turn has written so far. `changes`: name -> encoded value, None = deleted."""

    __slots__ = ("changes", "cleared", "effects", "failure", "size_bytes")

    def __init__(self) -> None:
        self.changes: dict[str, bytes | None] = {}
        self.cleared = False
        self.effects: Effects | None = None
        self.failure: BaseException | None = None
        self.size_bytes = 0

    @property
    def empty(self) -> bool:
        return not self.changes and not self.cleared and self.effects is None

    def effect(self) -> Effects:
        """The effects, to add one."""
        if self.effects is None:
            self.effects = Effects()
        return self.effects


def merged(
    base: Iterable[tuple[AnyStr, bytes]],
    changes: Mapping[AnyStr, bytes | None],
    names: Iterable[AnyStr],
    *,
    reverse: bool,
) -> Iterator[tuple[AnyStr, bytes]]:
    """`base` in order with `changes` laid over it; `names` are the changed names in range, in order."""
    mine = iter(names)
    name = next(mine, None)
    for found, value in base:
        while name is not None and (name > found if reverse else name < found):
            if (changed := changes[name]) is not None:
                yield name, changed
            name = next(mine, None)
        if name == found:
            if (changed := changes[found]) is not None:
                yield found, changed
            name = next(mine, None)
        else:
            yield found, value
    while name is not None:
        if (changed := changes[name]) is not None:
            yield name, changed
        name = next(mine, None)


def in_range(names: Iterable[str], start: str, end: str | None, *, reverse: bool) -> list[str]:
    """The names with start <= name < end, sorted."""
    return sorted((n for n in names if n >= start and (end is None or n < end)), reverse=reverse)


def _utf8_bytes(name: str) -> int:
    try:
        return len(name.encode())
    except UnicodeEncodeError as error:
        raise UnstorableValue(
            f"a name in state with lone surrogates cannot be stored: {name[:40]!r}"
        ) from error


def prefix_end(prefix: str) -> str | None:
    """The smallest str greater than all that begin with `prefix`; None if there is none."""
    for at in range(len(prefix) - 1, -1, -1):
        if ord(prefix[at]) < 0x10FFFF:
            following = ord(prefix[at]) + 1
            return prefix[:at] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)
    return None


class State(Sockets):
    """`self.state`: the object's durable storage and who it is. All of it belongs to the running turn."""

    __slots__ = ("_limits", "_listening", "_now_ms", "_overlay", "_sockets", "_turn", "_view", "id")

    def __init__(self, key: str, view: View, limits: Limits) -> None:
        self.id = ObjectId(key)
        self._view = view
        self._limits = limits
        self._turn: object = None
        self._overlay = Overlay()
        self._now_ms = 0
        self._sockets: dict[str, WebSocket] | None = None  # those that were asked for, by id
        self._listening: dict[str, ListenerSocket] | None = None  # those the instance listens to

    @property
    def storage(self) -> State:
        """The same object, for those who come from Cloudflare."""
        return self

    @property
    def now(self) -> int:
        """The command's log time in ms since 1970: the same whenever the turn runs again."""
        self._inside()
        return self._now_ms

    async def get(self, name: str, default: Any = None) -> Any:
        """The value under `name`, a copy; `default` if there is none."""
        encoded = self._lookup(name)
        return default if encoded is None else decode_value(encoded)

    @overload
    async def put(self, name: str, value: Any, /) -> None: ...
    @overload
    async def put(self, values: Mapping[str, Any], /) -> None: ...
    async def put(self, name: str | Mapping[str, Any], value: Any = _ABSENT, /) -> None:
        """Store one value under a name, or each of a mapping.

        Raises `UnstorableValue` (a TypeError) for a type that cannot be stored, `TooLarge` over a limit.
        """
        if isinstance(name, str):
            if value is _ABSENT:
                raise TypeError("put(name, value) or put({name: value, …})")
            self._write(name, encode_value(name, value))
            return
        encoded = [(each, encode_value(each, item)) for each, item in name.items()]
        for each, data in encoded:
            self._write(each, data)

    async def delete(self, name: str) -> bool:
        """Remove `name`; True if it was there."""
        existed = self._lookup(name) is not None
        if existed:
            self._write(name, None)
        return existed

    async def delete_all(self) -> None:
        """Remove every value of the object."""
        overlay = self._writable()
        overlay.changes.clear()
        overlay.size_bytes = 0
        overlay.cleared = True

    async def list(
        self,
        *,
        prefix: str = "",
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        limit: int = MAX_LISTED,
        reverse: bool = False,
        cursor: str | None = None,
    ) -> Listing:
        """A page of names in order (at most `limit`, at most 1,000); `cursor` from the page before goes on.

        Raises ValueError for a limit below 1.
        """
        if limit < 1:
            raise ValueError(f"list takes a limit of at least 1, not {limit}")
        limit = min(limit, MAX_LISTED)
        found: list[ListedKey] = []
        for name, _ in self._scan(prefix, start, start_after, end, reverse, cursor):
            if len(found) == limit:
                return Listing(found, False, found[-1].name)
            found.append(ListedKey(name))
        return Listing(found)

    async def items(
        self,
        *,
        prefix: str = "",
        start: str | None = None,
        start_after: str | None = None,
        end: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> dict[str, Any]:
        """Names and values in order. `start` is inclusive, `start_after` and `end` are exclusive."""
        found: dict[str, Any] = {}
        for name, encoded in self._scan(prefix, start, start_after, end, reverse, None):
            if limit is not None and len(found) >= limit:
                break
            found[name] = decode_value(encoded)
        return found

    # How the turn uses it

    def begin(self, turn: object, overlay: Overlay, now_ms: int) -> None:
        """Bind the handle to a turn."""
        self._turn = turn
        self._overlay = overlay
        self._now_ms = now_ms

    def end(self) -> None:
        """From here on the handle belongs to nobody."""
        self._turn = None

    def _inside(self) -> Overlay:
        if self._turn is None or current_turn.get(None) is not self._turn:
            raise TurnEnded(
                f"the state of {self.id} was used outside its turn: await what you start inside the handler"
            )
        return self._overlay

    def _lookup(self, name: str) -> bytes | None:
        overlay = self._overlay if current_turn.get(None) is self._turn is not None else self._inside()
        encoded = overlay.changes.get(name, _ABSENT)
        if encoded is not _ABSENT:
            return encoded  # type: ignore[no-any-return]  # _ABSENT is Any
        if overlay.cleared:
            return None
        if type(name) is not str:
            raise TypeError(f"a name in state is a str, not {type(name).__name__}")
        try:
            return self._view.get(name)
        except UnicodeEncodeError:
            return None  # half a surrogate pair: no such name can have been put
        except Exception as error:
            overlay.failure = error
            raise

    def _writable(self) -> Overlay:
        overlay = self._inside()
        if overlay.failure is not None:
            raise StorageFailed(
                f"{self.id} met a storage failure in this turn, which therefore cannot write: {overlay.failure}"
            ) from overlay.failure
        return overlay

    def _write(self, name: str, encoded: bytes | None) -> None:
        overlay, limits = self._overlay, self._limits
        if overlay.failure is not None or self._turn is None or current_turn.get(None) is not self._turn:
            self._writable()  # says what is wrong
        if type(name) is not str:
            raise TypeError(f"a name in state is a str, not {type(name).__name__}")
        name_bytes = len(name) if name.isascii() else _utf8_bytes(name)
        if not 0 < name_bytes <= limits.key_bytes:
            raise TooLarge(
                f"a name in state has 1 to {limits.key_bytes} bytes; {name[:40]!r} has {name_bytes}"
            )
        value_bytes = 0 if encoded is None else len(encoded)
        if value_bytes > limits.value_bytes:
            raise TooLarge(
                f"state[{name!r}] has {value_bytes} bytes; a value may have {limits.value_bytes} "
                "(limits.value_bytes): split it over several names"
            )
        size_bytes = overlay.size_bytes + name_bytes + value_bytes
        before = overlay.changes.get(name, _ABSENT)
        if before is not _ABSENT:
            size_bytes -= name_bytes + (0 if before is None else len(before))
        if size_bytes > limits.turn_bytes:
            raise TooLarge(
                f"this turn of {self.id} writes over {limits.turn_bytes} bytes (limits.turn_bytes): "
                "spread it over several commands"
            )
        overlay.size_bytes = size_bytes
        overlay.changes[name] = encoded

    def _scan(
        self,
        prefix: str,
        start: str | None,
        start_after: str | None,
        end: str | None,
        reverse: bool,
        cursor: str | None,
    ) -> Iterator[tuple[str, bytes]]:
        overlay = self._inside()
        if start is not None and start_after is not None:
            raise ObjectError("list takes start or start_after, not both")
        low, high = prefix, prefix_end(prefix) if prefix else None
        after = start_after + "\0" if start_after is not None else start
        if after is not None:
            low = max(low, after)
        if end is not None:
            high = end if high is None else min(high, end)
        if cursor is not None and reverse:
            high = cursor if high is None else min(high, cursor)
        elif cursor is not None:
            low = max(low, cursor + "\0")
        names = in_range(overlay.changes, low, high, reverse=reverse)
        try:
            base = () if overlay.cleared else self._view.scan(low, high, reverse=reverse)
            yield from merged(base, overlay.changes, names, reverse=reverse)
        except TurnEnded:
            raise
        except Exception as error:
            overlay.failure = error
            raise
