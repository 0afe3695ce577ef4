"""Projections: a fold over the turns of all objects, which a user declares in a few lines.

A projection is a function of one turn and of a table of rows. perdure calls it with the entries of a journal
partition, in order, in a process beside the node (streams/projections/), and keeps the rows with the position
up to which they are made. Nothing here runs in the way of a command.

Laws
- A projection is a pure function of the entries before: the same journal gives the same rows, in whichever
  process and how often it is folded. [test_projections.py]
- Its rows are of one type, which is checked when it is declared. Another type needs another version.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from perdure.schemas.errors import ConfigError
from perdure.schemas.journal import Entry
from perdure.schemas.values import decode_value

State = TypeVar("State")
OnError = Literal["stop", "skip"]
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class TurnEntry:
    """An entry of the journal: what one turn of an object did.

    `namespace` and `name` are the object's. `offset` and `partition` are the entry's place in the journal,
    which no other entry has.
    """

    __slots__ = ("__dict__", "_entry", "name", "namespace", "offset", "partition")

    def __init__(self, entry: Entry, partition: int, offset: int) -> None:
        """Built by perdure, one for each entry.

        entry: the entry.
        partition, offset: its place in the journal.
        """
        self._entry = entry
        self.partition = partition
        self.offset = offset
        self.namespace, _, self.name = entry.key.partition("/")

    @property
    def key(self) -> str:
        """The object: `Namespace/name`."""
        return self._entry.key

    @property
    def time_ms(self) -> int:
        """The turn's log time, in ms since 1970."""
        return self._entry.time_ms

    @property
    def outcome(self) -> str:
        """ok, refused, failed, rejected, unavailable or parked."""
        return self._entry.outcome

    @property
    def kind(self) -> str:
        """The kind of command that the turn ran: call, fetch, alarm, socket or admin; empty if perdure itself
        made the entry (a transfer, an import).
        """
        return self._entry.summary.partition(" ")[0]

    @property
    def method(self) -> str:
        """The method that was called, or the HTTP method of a fetch."""
        return self._entry.summary.partition(" ")[2].partition(" ")[0]

    @property
    def id(self) -> str:
        """The id of the command."""
        return self._entry.id

    @property
    def command(self) -> int:
        """The offset of the command in its topic; -1 if there was none."""
        return self._entry.command

    @property
    def principal(self) -> str:
        """The name of the client's token or subject; empty without access control."""
        return self._entry.principal

    @property
    def cleared(self) -> bool:
        """True if the turn removed all values that the object had before it wrote `puts`."""
        return self._entry.clear

    @property
    def deletes(self) -> tuple[str, ...]:
        """The names of the values that were deleted."""
        return self._entry.deletes

    @property
    def changed(self) -> list[str]:
        """The names of the values that were written or deleted, in order."""
        return sorted({*self._entry.puts, *self._entry.deletes})

    @cached_property
    def puts(self) -> Mapping[str, Any]:
        """The values that were written, by their names in the object's state."""
        return {name: decode_value(value) for name, value in self._entry.puts.items()}

    def get(self, name: str, default: Any = None) -> Any:
        """The value that was written under `name`; `default` if the turn did not write it."""
        stored = self._entry.puts.get(name)
        return default if stored is None else decode_value(stored)

    @property
    def error(self) -> str:
        """The code of the error that was answered; empty if there was none."""
        error = self._entry.reply.error
        return "" if error is None else error.code

    def __repr__(self) -> str:
        return f"<turn of {self.key} at {self.partition}:{self.offset}, {self.outcome}>"


class Table(ABC, Generic[State]):
    """The rows of a projection in one partition, by their keys, as its function sees them.

    `table[key]` is the row, made by the type's own default if there is none; change it in place, or assign
    another. `del table[key]` removes it.
    """

    @abstractmethod
    def __getitem__(self, key: str) -> State: ...

    @abstractmethod
    def __setitem__(self, key: str, row: State) -> None: ...

    @abstractmethod
    def __delitem__(self, key: str) -> None: ...

    @abstractmethod
    def get(self, key: str) -> State | None:
        """The row, None if there is none. Do not change it in place."""

    @abstractmethod
    def keys(self, prefix: str) -> list[str]:
        """The keys of all rows that begin with `prefix`, in order. It reads them all."""

    @abstractmethod
    def clear(self, prefix: str) -> None:
        """Remove all rows whose keys begin with `prefix`."""


Function = Callable[[TurnEntry, Table[Any]], None]
Deleted = Callable[[str, Table[Any]], None]


class Projection(Generic[State]):
    """A declared projection: its name, version, function, and the type of its rows."""

    def __init__(
        self,
        function: Callable[[TurnEntry, Table[State]], None],
        *,
        version: int,
        name: str = "",
        merge: Callable[[State, State], State] | None = None,
        on_error: OnError = "stop",
    ) -> None:
        """As `projection` documents. Raises `ConfigError`."""
        self.function = function
        self.name = name or getattr(function, "__name__", "")
        self.version = version
        self.merge = merge
        self.on_error = on_error
        self.on_deleted: Deleted | None = None
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f'"{self.name}" cannot name a projection: use lower case letters, digits, "_" and "-", '
                "beginning with a letter"
            )
        if type(version) is not int or version < 1:
            raise self._wrong(f"version={version!r} is not a whole number from 1 on")
        if on_error not in get_args(OnError):
            raise self._wrong(f'on_error="{on_error}" is neither "stop" nor "skip"')
        self.row_type: Any = self._row_type(function)
        self._check_row_type()

    def deleted(self, function: Deleted) -> Deleted:
        """Decorate the function that is called with (namespace, table) when a migration deletes a namespace.

        Its objects are gone then, without a turn of each.
        """
        self.on_deleted = function
        return function

    def __call__(self, turn: TurnEntry, table: Table[State]) -> None:
        """Fold one turn, as perdure does; for tests of the function."""
        self.function(turn, table)

    @cached_property
    def fingerprint(self) -> str:
        """Stands for the type of the rows: rows of another type are not read by it."""
        schema = msgspec.json.schema(self.row_type)
        return blake2b(msgspec.json.encode(schema, order="sorted"), digest_size=8).hexdigest()

    def default(self) -> State:
        """The row that `table[key]` makes."""
        row: State = (get_origin(self.row_type) or self.row_type)()
        return row

    def _row_type(self, function: Any) -> Any:
        try:
            parameters = list(inspect.signature(function).parameters)
            hints = get_type_hints(function)
        except Exception as error:
            raise self._wrong(f"its annotations cannot be read: {error}") from error
        if inspect.iscoroutinefunction(function) or len(parameters) != 2:
            raise self._wrong(
                "it must be: def name(turn: perdure.TurnEntry, table: perdure.Table[Row]) -> None"
            )
        annotated = hints.get(parameters[1])
        if get_origin(annotated) is not Table:
            raise self._wrong(
                f"annotate its second parameter with the type of the rows: {parameters[1]}: perdure.Table[Row]"
            )
        return get_args(annotated)[0]

    def _check_row_type(self) -> None:
        hint = (
            "use int, float, str, dict, list, a dataclass or a msgspec.Struct with a default for each field"
        )
        try:
            msgspec.json.schema(self.row_type)
        except Exception as error:  # noqa: BLE001 - msgspec's, or of the user's class
            raise self._wrong(f"rows of type {self.row_type!r} cannot be stored ({error}): {hint}") from None
        try:
            msgspec.msgpack.decode(msgspec.msgpack.encode(self.default()), type=self.row_type)
        except Exception as error:  # noqa: BLE001 - as above
            raise self._wrong(
                f"{self.row_type!r}() does not make a first row that can be stored ({error}): {hint}"
            ) from None

    def _wrong(self, why: str) -> ConfigError:
        code = getattr(self.function, "__code__", None)
        place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
        return ConfigError(f"the projection {self.name}{place}: {why}")

    def __repr__(self) -> str:
        return f"<projection {self.name}, version {self.version}>"


def projection(
    *,
    version: int,
    name: str = "",
    merge: Callable[[State, State], State] | None = None,
    on_error: OnError = "stop",
) -> Callable[[Callable[[TurnEntry, Table[State]], None]], Projection[State]]:
    """Declare a function of (turn, table) as a projection.

    The type of the rows is that of its second parameter: `table: perdure.Table[Row]`.

    version: raise it when the function or the type of the rows changes: the new version is made beside the
        old one, which is shown until the new one has caught up.
    name: the projection's name; the function's name if it is empty.
    merge: of two rows that have the same key in two partitions, the one to show. None: a key belongs to one
        partition (an object's key does), or rows are shown for each partition.
    on_error: what happens when the function raises: "stop" stops the projection in that partition, before the
        entry; "skip" leaves the entry out, and counts it.

    Raises `ConfigError` if it cannot be used.
    """

    def declare(function: Callable[[TurnEntry, Table[State]], None]) -> Projection[State]:
        return Projection(function, version=version, name=name, merge=merge, on_error=on_error)

    return declare
