"""Every error perdure raises, in one tree. A class says whose fault it is; its text says what to do.

PerdureError
├── CallerError             the sender must change the command
│   ├── BadKey              the name of the object cannot be a key
│   ├── UnknownNamespace    no such namespace in this app
│   ├── MalformedCommand    the record or request is not a command
│   ├── TooLarge            over a size limit that the text names
│   ├── BadFrame            a WebSocket client broke the protocol
│   ├── InvalidArguments    RPC arguments do not fit the method's annotations
│   ├── UnknownMethod       the object has no such public method
│   ├── KeyConflict         an idempotency key that is in use, or was used for another request
│   ├── Unauthenticated     no valid credentials
│   ├── Forbidden           valid credentials without the right
│   ├── NotParked           nothing is parked there
│   └── NotAtHead           another command is at the head of the object, or none
├── Refusal                 the object refused the command on purpose; nothing changed
├── ObjectError             the object's code is at fault
│   ├── HandlerFailed       it raised; nothing changed
│   ├── BadReply            it returned something that cannot be a reply
│   ├── UnstorableValue     it put a value that state cannot hold (also a TypeError)
│   ├── UnfitValue          what is stored does not fit the type that get asks for (also a ValueError)
│   ├── TurnEnded           its state or a stub was used outside its turn
│   ├── Deadlock            it called an object that waits for it
│   ├── NonDeterministic    its turn ran again and made other calls
│   ├── Runaway             it ran too long without awaiting, and was interrupted
│   ├── Parked              the process died each time it ran this command
│   └── Skipped             an operator gave up this command
├── Unavailable             not done; send it again (HTTP 503)
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
    ├── StorageFailed       the disk refuses reads or writes (full, I/O error)
    ├── LogUnreachable      the log (Kafka) does not answer
    ├── PartitionBroken     a fault of perdure's own, after which the partition cannot go on
    └── Fenced              another owner claimed the partition
"""

from __future__ import annotations

from collections.abc import Iterator


class PerdureError(Exception):
    """The root of all errors that perdure raises.

    Attributes:
        code: a stable word for the error: `urn:perdure:problem:{code}` over HTTP, the code in records and on the
            command line.
    """

    code: str = "error"  # of a class; a Refusal has its own
    of_call = False  # raised in a caller for what another object answered


class CallerError(PerdureError):
    """The command cannot be taken as it is: its sender must change it. The root of the errors below it."""

    code = "bad-request"


class BadKey(CallerError):
    """The object's name cannot be a key: 1 to 512 bytes of printable UTF-8 in NFC, without `/`, not `.` or `..`."""

    code = "bad-key"


class UnknownNamespace(CallerError):
    """The app has no namespace of this name. The text lists those it has."""

    code = "unknown-namespace"


class MalformedCommand(CallerError):
    """The request or record is not a command: not JSON, a wrong header or idempotency key, or the wrong partition."""

    code = "malformed-command"


class TooLarge(CallerError):
    """A body, name, value or turn is over the limit that the text names. Send or store less, or raise the limit."""

    code = "too-large"


class BadFrame(CallerError):
    """A WebSocket client broke the protocol. Passed to `websocket_error`; the client sees the close code."""

    code = "bad-frame"


class InvalidArguments(CallerError):
    """The arguments do not fit the method's annotations. The text names method, argument and expected type."""

    code = "invalid-arguments"


class UnknownMethod(CallerError):
    """The class has no such method that can be called. The text lists those it has."""

    code = "unknown-method"


class KeyConflict(CallerError):
    """A command with this idempotency key is still being worked on. Repeat the request later, with the same key."""

    code = "key-in-flight"


class KeyReused(KeyConflict):
    """This idempotency key was used for another request within 24 hours. Use a new key for a new request."""

    code = "key-reused"


class Unauthenticated(CallerError):
    """The request has no valid credentials. The text does not reveal what is wrong with them."""

    code = "unauthenticated"

    def __init__(self, message: str = "this needs a valid token: Authorization: Bearer TOKEN") -> None:
        super().__init__(message)


class Forbidden(CallerError):
    """The credentials are valid and lack the right that the text names. Give the token that scope."""

    code = "forbidden"


class NotParked(CallerError):
    """Nothing is parked at that place: it was dealt with already, or was never there."""

    code = "not-parked"


class NotAtHead(CallerError):
    """The command to skip is not at the head of its object, or is no longer. Nothing was skipped."""

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
    """The object's code is at fault, or uses `state` in a way that makes no sense. The root of the errors below it."""

    code = "object-error"


class HandlerFailed(ObjectError):
    """The handler raised an exception, whose type and message the text has. Its turn was rolled back."""

    code = "handler-failed"


class BadReply(ObjectError):
    """The handler returned a value that cannot be a reply: not a `Response`, or not of the method's annotated type."""

    code = "bad-reply"


class UnstorableValue(ObjectError, TypeError):
    """The object stored a value of a type that state cannot hold. The text names the key and the type."""

    code = "unstorable-value"


class UnfitValue(ObjectError, ValueError):
    """A stored value does not fit the `type` that `get` was called with. The text names both."""

    code = "unfit-value"


class TurnEnded(ObjectError):
    """State or a stub was used outside a turn. Await what a handler starts before it returns."""

    code = "turn-ended"


class Deadlock(ObjectError):
    """The object called one that waits for it. The text has the chain. Let one of them `send` instead."""

    code = "deadlock"


class NonDeterministic(ObjectError):
    """The turn ran again, after a crash, and did not repeat a call that it had made. The text names the call."""

    code = "non-deterministic"


class Runaway(ObjectError):
    """The handler ran for `limits.step_s` without awaiting, and was interrupted. Await in it, or use a thread."""

    code = "runaway"


class Parked(ObjectError):
    """The process died `limits.charges` times while the object ran this command, which is not run again."""

    code = "parked"


class Skipped(ObjectError):
    """An operator gave up this command. Nothing was changed."""

    code = "skipped"


class Unavailable(PerdureError):
    """The command was not done, and can be sent again. The root of the errors below it.

    Attributes:
        retry_after_s: when to send it again, in seconds; a hint.
    """

    code = "unavailable"
    retry_after_s: float = 1.0


class Overloaded(Unavailable):
    """A bound was reached before anything was appended. Repeat the request later, or use more objects."""

    code = "overloaded"

    def __init__(self, message: str = "a bound was reached", *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ObjectPaused(Unavailable):
    """The object is paused, and `limits.mailbox` commands wait for it. Repeat the request when it is resumed."""

    code = "paused"


class OverQuota(Unavailable):
    """The principal's quota, which the text names, is used up. Repeat the request after `Retry-After`."""

    code = "over-quota"

    def __init__(
        self, message: str = "more than this principal's quota", *, retry_after_s: float = 1.0
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Expired(Unavailable):
    """The deadline passed before the turn could commit, so it was rolled back. See what keeps the object busy."""

    code = "expired"


class AskAgain(Unavailable):
    """The command changed nothing, and its answer was lost with the partition's owner. Repeat the request."""

    code = "ask-again"


class FetchFailed(PerdureError):
    """`perdure.fetch` got no HTTP response. The text names method, URL and reason. A handler may catch it."""

    code = "fetch-failed"


class FetchTimedOut(FetchFailed):
    """`perdure.fetch` did not have the whole response in time (`timeout=`, or `deadline_s`)."""

    code = "fetch-timed-out"


class FetchTooLarge(FetchFailed):
    """The body of a response to `perdure.fetch` is over `limits.fetch_bytes`."""

    code = "fetch-too-large"


class OutcomeUnknown(PerdureError):
    """The command may have taken effect, and no answer came. Repeat it with the same idempotency key.

    Attributes:
        command: its id for `GET /commands/{id}`; empty if it is not known.
    """

    code = "outcome-unknown"

    def __init__(self, message: str = "", command: str = "") -> None:
        super().__init__(message)
        self.command = command


class FailedInside(PerdureError):
    """A fault of perdure's own. Nothing was changed. Please report the traceback on the server's stderr."""

    code = "internal-error"


class OperatorError(PerdureError):
    """An operator must act. It ends the process at start, and a partition later. The root of the errors below it."""

    code = "operator-error"


class ConfigError(OperatorError):
    """The configuration, the app's code or a topic's settings cannot be used. The text names file and key."""

    code = "config-error"


class DataDirError(OperatorError):
    """The data directory is in use, belongs to another app, or has a newer format. The text says which."""

    code = "data-dir-error"


class LogCorrupt(OperatorError):
    """The log is damaged, was trimmed or recreated, or ends before the state does. perdure stops; it never skips."""

    code = "log-corrupt"


class StoreCorrupt(OperatorError):
    """A state file is damaged, or differs from a replay of the journal. `perdure state rebuild` makes it again."""

    code = "store-corrupt"


class StorageFailed(OperatorError):
    """The disk refuses to read or write: it is full, or fails."""

    code = "storage-failed"


class LogUnreachable(OperatorError):
    """The Kafka brokers do not answer. perdure continues by itself once they do."""

    code = "log-unreachable"


class PartitionBroken(OperatorError):
    """A fault of perdure's own stopped the partition. A restart replays the journal. Please report it."""

    code = "partition-broken"


class Fenced(OperatorError):
    """Another node claimed the partition. Run one node per app."""

    code = "fenced"


def error_named(code: str) -> type[PerdureError] | None:
    """The class whose code this is."""
    return _named.get(code)


def _kin(cls: type[PerdureError]) -> Iterator[type[PerdureError]]:
    yield cls
    for each in cls.__subclasses__():
        yield from _kin(each)


_named = {cls.code: cls for cls in _kin(PerdureError)}
