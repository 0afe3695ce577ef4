"""Every error perdure raises, in one tree. A class says when it is raised, whose fault it is, and what to do.

Each is `perdure.X`, so `help(perdure.Expired)` explains it, and `docs/errors.md` lists it by its code. Tests
of `perdure.testing` also meet `perdure.testing.SocketClosed`, which no server raises. [test_errors.py]

PerdureError
├── CallerError             the sender must change the command
│   ├── BadKey              the name of the object cannot be a key
│   ├── UnknownNamespace    no such namespace in this app
│   ├── MalformedCommand    the record or request is not a command
│   ├── TooLarge            over a size limit that the text names
│   ├── BadFrame            a WebSocket client broke the protocol
│   ├── InvalidArguments    RPC arguments do not fit the method's annotations
│   ├── UnknownMethod       the object has no such public method
│   ├── KeyConflict         a command with this idempotency key is being worked on
│   │   └── KeyReused       the key was used for another request
│   ├── Unauthenticated     no valid credentials
│   ├── Forbidden           valid credentials without the right
│   ├── NotParked           nothing is parked there
│   └── NotAtHead           another command is at the head of the object, or none
├── Refusal                 the object refused the command on purpose; nothing changed
├── ObjectError             the object's code is at fault
│   ├── HandlerFailed       it raised; nothing changed
│   ├── BadReply            it returned something that cannot be a reply
│   ├── NeverAwaited        it made a coroutine and did not await it
│   ├── UnstorableValue     it put a value that state cannot hold (also a TypeError)
│   ├── UnfitValue          what is stored does not fit the type that get asks for (also a ValueError)
│   ├── TurnEnded           its state or a stub was used outside its turn
│   ├── Deadlock            it called an object that waits for it
│   ├── NonDeterministic    its turn ran again and made other calls
│   ├── Runaway             it ran too long without awaiting, and was interrupted
│   ├── Parked              the process died each time it ran this command
│   └── Skipped             an operator gave up this command
├── Unavailable             not done; send it again (HTTP 503)
│   ├── Unreachable         the client reached no server
│   ├── Overloaded          a bound was reached before anything was appended
│   ├── ObjectPaused        the object is paused, and its mailbox is full
│   ├── OverQuota           the principal's quota is used up (HTTP 429)
│   ├── Expired             the deadline passed before the turn could commit
│   └── AskAgain            the answer was lost with its owner; nothing changed
├── FetchFailed             `perdure.fetch` got no response (HTTP 502)
│   ├── FetchTimedOut       not in time
│   └── FetchTooLarge       its body is over the limit
├── FailedInside            a fault of perdure's own; nothing changed (HTTP 500)
├── OutcomeUnknown          it may or may not have happened (HTTP 504)
└── OperatorError           an operator must act
    ├── ConfigError         configuration that cannot be used
    ├── DataDirError        the data directory is in use, foreign or too new
    ├── LogCorrupt          the log does not hold together: stop, never skip
    ├── StoreCorrupt        a state file is damaged: `perdure state rebuild` repairs it
    ├── SnapshotDamaged     a snapshot is damaged, foreign or incomplete, or none fits the journal
    ├── StorageFailed       the disk refuses reads or writes (full, I/O error)
    ├── LogUnreachable      the log (Kafka) does not answer
    ├── PartitionBroken     a fault of perdure's own, after which the partition cannot go on
    └── Fenced              another owner claimed the partition
"""

from __future__ import annotations

from collections.abc import Iterator

from perdure.schemas.errors.base import (
    PerdureError,
)
from perdure.schemas.errors.caller import (
    BadFrame,
    BadKey,
    CallerError,
    Forbidden,
    InvalidArguments,
    KeyConflict,
    KeyReused,
    MalformedCommand,
    NotAtHead,
    NotParked,
    TooLarge,
    Unauthenticated,
    UnknownMethod,
    UnknownNamespace,
)
from perdure.schemas.errors.objects import (
    BadReply,
    Deadlock,
    HandlerFailed,
    NeverAwaited,
    NonDeterministic,
    ObjectError,
    Parked,
    Refusal,
    Runaway,
    Skipped,
    TurnEnded,
    UnfitValue,
    UnstorableValue,
)
from perdure.schemas.errors.operator import (
    ConfigError,
    DataDirError,
    Fenced,
    LogCorrupt,
    LogUnreachable,
    OperatorError,
    PartitionBroken,
    SnapshotDamaged,
    StorageFailed,
    StoreCorrupt,
)
from perdure.schemas.errors.unavailable import (
    AskAgain,
    Expired,
    FailedInside,
    FetchFailed,
    FetchTimedOut,
    FetchTooLarge,
    ObjectPaused,
    OutcomeUnknown,
    Overloaded,
    OverQuota,
    Unavailable,
    Unreachable,
)

__all__ = [
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
    "error_named",
    "tree",
]


def error_named(code: str) -> type[PerdureError] | None:
    """The class whose code this is."""
    return _named.get(code)


def tree(root: type[PerdureError] = PerdureError) -> Iterator[type[PerdureError]]:
    """The class and those of perdure's own below it, each before its
    subclasses. An app's own are left out.
    """
    yield root
    for each in root.__subclasses__():
        if each.__module__.startswith(__name__):
            yield from tree(each)


# a class without a code of its own is a case of its parent: the code does not say which
_named = {each.code: each for each in tree() if "code" in vars(each)}
