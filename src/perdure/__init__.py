"""perdure: durable objects for Python on a Kafka-style log.

Four nouns to begin with: a `DurableObject` is a class whose instances are always there, one turn at a time,
with durable `State`; it receives a `Request` and answers with a `Response`, or says no with a `Refusal`.
`fetch` asks the world outside; `FetchFailed` says that it did not answer.

Of its state: `Listing` is a page of names, `Transaction` a part of a turn that can be undone; `UnfitValue` is
raised for a stored value of another shape than requested, `StorageFailed` if the disk cannot be read.

What a call to another object may raise beside its `Refusal`, all of them a `PerdureError`: `CallerError`, the
call must be changed; `HandlerFailed`, the other's code raised; `Deadlock`, the other waits for this one;
`Unavailable`, nothing was done, ask again; `OutcomeUnknown`, it may have happened.

`projection` declares a fold over the turns of all objects: a function of a `TurnEntry` and a `Table` of rows.

`connect` is for programs outside: they ask the objects of a running server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.api.client.app import Connection
    from perdure.objects.alarms import AlarmInfo
    from perdure.objects.durable import DurableObject, Env
    from perdure.objects.http import Request, Response
    from perdure.objects.listing import Listing
    from perdure.objects.outgoing import fetch
    from perdure.objects.projection import Projection, Table, TurnEntry, projection
    from perdure.objects.sockets import WebSocket
    from perdure.objects.state import State
    from perdure.objects.transaction import Transaction
    from perdure.objects.websocket_pair import WebSocketPair
    from perdure.schemas.errors import (
        AskAgain,
        BadFrame,
        BadKey,
        BadReply,
        CallerError,
        ConfigError,
        DataDirError,
        Deadlock,
        Expired,
        FailedInside,
        Fenced,
        FetchFailed,
        FetchTimedOut,
        FetchTooLarge,
        Forbidden,
        HandlerFailed,
        InvalidArguments,
        KeyConflict,
        KeyReused,
        LogCorrupt,
        LogUnreachable,
        MalformedCommand,
        NeverAwaited,
        NonDeterministic,
        NotAtHead,
        NotParked,
        ObjectError,
        ObjectPaused,
        OperatorError,
        OutcomeUnknown,
        Overloaded,
        OverQuota,
        Parked,
        PartitionBroken,
        PerdureError,
        Refusal,
        Runaway,
        Skipped,
        SnapshotDamaged,
        StorageFailed,
        StoreCorrupt,
        TooLarge,
        TurnEnded,
        Unauthenticated,
        Unavailable,
        UnfitValue,
        UnknownMethod,
        UnknownNamespace,
        Unreachable,
        UnstorableValue,
    )

__all__ = [
    "AlarmInfo",
    "AskAgain",
    "BadFrame",
    "BadKey",
    "BadReply",
    "CallerError",
    "ConfigError",
    "DataDirError",
    "Deadlock",
    "DurableObject",
    "Env",
    "Expired",
    "FailedInside",
    "Fenced",
    "FetchFailed",
    "FetchTimedOut",
    "FetchTooLarge",
    "Forbidden",
    "HandlerFailed",
    "InvalidArguments",
    "KeyConflict",
    "KeyReused",
    "Listing",
    "LogCorrupt",
    "LogUnreachable",
    "MalformedCommand",
    "NeverAwaited",
    "NonDeterministic",
    "NotAtHead",
    "NotParked",
    "ObjectError",
    "ObjectPaused",
    "OperatorError",
    "OutcomeUnknown",
    "OverQuota",
    "Overloaded",
    "Parked",
    "PartitionBroken",
    "PerdureError",
    "Projection",
    "Refusal",
    "Request",
    "Response",
    "Runaway",
    "Skipped",
    "SnapshotDamaged",
    "State",
    "StorageFailed",
    "StoreCorrupt",
    "Table",
    "TooLarge",
    "Transaction",
    "TurnEnded",
    "TurnEntry",
    "Unauthenticated",
    "Unavailable",
    "UnfitValue",
    "UnknownMethod",
    "UnknownNamespace",
    "Unreachable",
    "UnstorableValue",
    "WebSocket",
    "WebSocketPair",
    "connect",
    "fetch",
    "projection",
]

# Where each name is from. It is imported when it is first used: `perdure --help` and a client need none of
# them.
_HOMES = {
    "perdure.objects.alarms": ("AlarmInfo",),
    "perdure.objects.durable": ("DurableObject", "Env"),
    "perdure.objects.http": ("Request", "Response"),
    "perdure.objects.listing": ("Listing",),
    "perdure.objects.outgoing": ("fetch",),
    "perdure.objects.projection": ("Projection", "Table", "TurnEntry", "projection"),
    "perdure.objects.websocket_pair": ("WebSocketPair",),
    "perdure.objects.sockets": ("WebSocket",),
    "perdure.objects.state": ("State",),
    "perdure.objects.transaction": ("Transaction",),
    "perdure.schemas.errors": (
        "AskAgain",
        "BadFrame",
        "BadKey",
        "BadReply",
        "CallerError",
        "ConfigError",
        "DataDirError",
        "Deadlock",
        "Expired",
        "FailedInside",
        "Fenced",
        "FetchFailed",
        "FetchTimedOut",
        "FetchTooLarge",
        "Forbidden",
        "HandlerFailed",
        "InvalidArguments",
        "KeyConflict",
        "KeyReused",
        "LogCorrupt",
        "LogUnreachable",
        "MalformedCommand",
        "NeverAwaited",
        "NonDeterministic",
        "NotAtHead",
        "NotParked",
        "ObjectError",
        "ObjectPaused",
        "OperatorError",
        "OutcomeUnknown",
        "OverQuota",
        "Overloaded",
        "Parked",
        "PartitionBroken",
        "PerdureError",
        "Refusal",
        "Runaway",
        "Skipped",
        "SnapshotDamaged",
        "StorageFailed",
        "StoreCorrupt",
        "TooLarge",
        "TurnEnded",
        "Unauthenticated",
        "Unavailable",
        "UnfitValue",
        "UnknownMethod",
        "UnknownNamespace",
        "Unreachable",
        "UnstorableValue",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # a type checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        """The public name `name`, imported at its first use. Raises `AttributeError` if there is none."""
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
        return value

    def __dir__() -> list[str]:
        """Also the names that have not been used yet."""
        return sorted({*globals(), *__all__})


def connect(url: str, *, token: str | None = None, timeout: float = 60.0, retry: bool = True) -> Connection:
    """Connect to a running app: `async with connect(url) as app`, or `with
    connect(url) as app` without `await`.

    Nothing is sent before the first call. At most 100 calls run at once; further ones wait.

    url: the server's `http://` or `https://` URL.
    token: the bearer token to send, where access is guarded.
    timeout: seconds for a whole call with all its attempts.
    retry: False makes one attempt of each call.

    Raises `ConfigError` for a URL, token or timeout that cannot be used.
    """
    from perdure.api.client.app import Connection  # no object needs an HTTP client

    return Connection(url, token=token, timeout=timeout, retry=retry)
