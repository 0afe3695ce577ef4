"""Every error perdure raises, in one tree. A class says whose fault it is; its text says what to do.

PerdureError
├── CallerError             the one who sent the command must change it
│   ├── BadKey              the name of the object cannot be a key
│   ├── UnknownNamespace    no such namespace in this app
│   ├── MalformedCommand    the record or request is no command
│   ├── TooLarge            over a size limit that the text names
│   ├── BadFrame            a WebSocket client broke the protocol
│   ├── InvalidArguments    RPC arguments do not fit the method's annotations
│   ├── UnknownMethod       the object has no such public method
│   ├── KeyConflict         an idempotency key that is in use or was used for something else
│   ├── Unauthenticated     nobody known: no credentials, or none that count
│   ├── Forbidden           somebody known who has no right to this
│   ├── NotParked           nothing is parked there (any more)
│   └── NotAtHead           no command, or another one, is at the head of the object: nothing was given up
├── Refusal                 the object said no, on purpose; nothing changed
├── ObjectError             the object's code is at fault
│   ├── HandlerFailed       it raised; nothing changed
│   ├── BadReply            it returned something that cannot be a reply
│   ├── UnstorableValue     it put a value that state cannot hold (also a TypeError)
│   ├── UnfitValue          what is stored does not fit the type that get asks for (also a ValueError)
│   ├── TurnEnded           its state was used after its turn, or it called somebody then
│   ├── Deadlock            it called an object that waits for it
│   ├── NonDeterministic    its turn ran again and asked for something else
│   ├── Runaway             it ran too long without awaiting, and was interrupted
│   ├── Parked              the process died each time it worked on this command: given up
│   └── Skipped             whoever runs the app gave up this command
├── Unavailable             not done; ask again (HTTP 503)
│   ├── Overloaded          a bound was reached before anything was appended
│   ├── ObjectPaused        the object is paused, and as many commands wait for it as may
│   ├── OverQuota           this principal asks for more than it may (HTTP 429)
│   ├── Expired             the deadline passed before the turn could commit
│   └── AskAgain            the answer was lost with its owner; nothing changed
├── FetchFailed             the world outside is at fault: what `perdure.fetch` asked for did not come (HTTP 502)
│   ├── FetchTimedOut       not in time
│   └── FetchTooLarge       its body is over the limit
├── FailedInside            a fault of perdure's own met this command: nothing changed (HTTP 500)
├── OutcomeUnknown          it may or may not have happened (HTTP 504)
└── OperatorError           whoever runs perdure must act
    ├── ConfigError         configuration that cannot be used
    ├── DataDirError        the data directory is in use, foreign or too new
    ├── LogCorrupt          the log does not hold together: stop, never skip
    ├── StoreCorrupt        a state file is damaged: `perdure state rebuild` heals it
    ├── StorageFailed       the disk refuses reads or writes (full, I/O error)
    ├── LogUnreachable      the log (Kafka) does not answer
    ├── PartitionBroken     a fault of perdure's own, after which the partition cannot go on
    └── Fenced              another owner claimed the partition
"""

from __future__ import annotations

from collections.abc import Iterator


class PerdureError(Exception):
    """Root of all errors perdure raises. `code` is stable and names the problem type on every door."""

    code: str = "error"  # of a class; a Refusal has its own
    of_call = False  # raised in a caller for what another object answered


class CallerError(PerdureError):
    code = "bad-request"


class BadKey(CallerError):
    code = "bad-key"


class UnknownNamespace(CallerError):
    code = "unknown-namespace"


class MalformedCommand(CallerError):
    code = "malformed-command"


class TooLarge(CallerError):
    code = "too-large"


class BadFrame(CallerError):
    code = "bad-frame"


class InvalidArguments(CallerError):
    code = "invalid-arguments"


class UnknownMethod(CallerError):
    code = "unknown-method"


class KeyConflict(CallerError):
    """`code` is `key-in-flight` (409) or `key-reused` (422); set per instance."""

    code = "key-in-flight"


class KeyReused(KeyConflict):
    code = "key-reused"


class Unauthenticated(CallerError):
    """One text for all of them: what is wrong with credentials is no business of who brings them."""

    code = "unauthenticated"

    def __init__(self, message: str = "this needs a valid token: Authorization: Bearer TOKEN") -> None:
        super().__init__(message)


class Forbidden(CallerError):
    code = "forbidden"


class NotParked(CallerError):
    code = "not-parked"


class NotAtHead(CallerError):
    code = "not-at-head"


class Refusal(PerdureError):
    """Raised by an object's handler to refuse a command: the turn rolls back, the object stays in memory (HTTP 409).

    message: a text for the caller.
    code: a short word of the app's own, by which a caller tells refusals apart.
    detail: any JSON value for the caller.
    """

    def __init__(self, message: str = "refused", *, code: str = "refused", detail: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail

    code = "refused"


class ObjectError(PerdureError):
    code = "object-error"


class HandlerFailed(ObjectError):
    code = "handler-failed"


class BadReply(ObjectError):
    code = "bad-reply"


class UnstorableValue(ObjectError, TypeError):
    code = "unstorable-value"


class UnfitValue(ObjectError, ValueError):
    code = "unfit-value"


class TurnEnded(ObjectError):
    code = "turn-ended"


class Deadlock(ObjectError):
    code = "deadlock"


class NonDeterministic(ObjectError):
    code = "non-deterministic"


class Runaway(ObjectError):
    code = "runaway"


class Parked(ObjectError):
    code = "parked"


class Skipped(ObjectError):
    code = "skipped"


class Unavailable(PerdureError):
    """Nothing was done. `retry_after_s` is a hint."""

    code = "unavailable"
    retry_after_s: float = 1.0


class Overloaded(Unavailable):
    code = "overloaded"

    def __init__(self, message: str = "a bound was reached", *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ObjectPaused(Unavailable):
    code = "paused"


class OverQuota(Unavailable):
    code = "over-quota"

    def __init__(
        self, message: str = "more than this principal's quota", *, retry_after_s: float = 1.0
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Expired(Unavailable):
    code = "expired"


class AskAgain(Unavailable):
    code = "ask-again"


class FetchFailed(PerdureError):
    code = "fetch-failed"


class FetchTimedOut(FetchFailed):
    code = "fetch-timed-out"


class FetchTooLarge(FetchFailed):
    code = "fetch-too-large"


class OutcomeUnknown(PerdureError):
    """`command`: the id by which what became of it can be found, if it is known."""

    code = "outcome-unknown"

    def __init__(self, message: str = "", command: str = "") -> None:
        super().__init__(message)
        self.command = command


class FailedInside(PerdureError):
    code = "internal-error"


class OperatorError(PerdureError):
    code = "operator-error"


class ConfigError(OperatorError):
    code = "config-error"


class DataDirError(OperatorError):
    code = "data-dir-error"


class LogCorrupt(OperatorError):
    code = "log-corrupt"


class StoreCorrupt(OperatorError):
    code = "store-corrupt"


class StorageFailed(OperatorError):
    code = "storage-failed"


class LogUnreachable(OperatorError):
    code = "log-unreachable"


class PartitionBroken(OperatorError):
    code = "partition-broken"


class Fenced(OperatorError):
    code = "fenced"


def error_named(code: str) -> type[PerdureError] | None:
    """The class whose code this is."""
    return _named.get(code)


def _kin(cls: type[PerdureError]) -> Iterator[type[PerdureError]]:
    yield cls
    for each in cls.__subclasses__():
        yield from _kin(each)


_named = {cls.code: cls for cls in _kin(PerdureError)}
