"""Errors of the caller: the command cannot be taken as it is, and nothing was done."""

from __future__ import annotations

from perdure.schemas.errors.base import PerdureError


class CallerError(PerdureError):
    """The command cannot be taken as it is. The root of the errors below it.

    Whose fault: the sender's.
    What to do: change the command. Sending it again as it is gives the same error.
    """

    code = "bad-request"


class BadKey(CallerError):
    """The object's name cannot be a key: 1 to 512 bytes of printable UTF-8 in NFC, without `/`, not `.` or
    `..`.

    Whose fault: the caller's, who chose the name.
    What to do: use a name that fits, for example a hash or an encoded form of the one at hand.
    """

    code = "bad-key"


class UnknownNamespace(CallerError):
    """The app has no namespace of this name. The text lists those it has.

    Whose fault: the caller's, or the configuration's if the binding was forgotten.
    What to do: use one of the listed names, or bind the class in `perdure.toml` and restart.
    """

    code = "unknown-namespace"


class MalformedCommand(CallerError):
    """The request or record is not a command: not JSON, a wrong header or idempotency key, or the wrong
    partition.

    Whose fault: the caller's. A record of another program was written by a producer that is set up wrongly.
    What to do: correct what the text names. Producers use Java's murmur2 partitioner.
    """

    code = "malformed-command"


class TooLarge(CallerError):
    """A body, name, value or turn is over the limit that the text names; nothing was changed.

    Whose fault: the caller's, or the object's if its own writes are over the limit.
    What to do: send or store less, split the value, or raise the limit.
    """

    code = "too-large"


class BadFrame(CallerError):
    """A WebSocket client broke the protocol. Passed to `websocket_error`; the client sees the close code.

    Whose fault: the WebSocket client's.
    What to do: correct the client; the object has nothing to do but to clean up.
    """

    code = "bad-frame"


class InvalidArguments(CallerError):
    """The arguments do not fit the method's annotations. The text names method, argument and expected type.

    Whose fault: the caller's.
    What to do: pass what the annotations ask for. A caller that has the class gets this before anything is
    sent.
    """

    code = "invalid-arguments"


class UnknownMethod(CallerError):
    """The class has no such method that can be called. The text lists those it has.

    Whose fault: the caller's; or the server runs older code than the caller.
    What to do: call one of the listed methods. Names that begin with `_` and handlers cannot be called.
    """

    code = "unknown-method"


class KeyConflict(CallerError):
    """A command with this idempotency key is still being worked on.

    Whose fault: the caller's, who sent the request twice; nothing is lost by it.
    What to do: repeat the request a little later, with the same key, to get the answer of the first.
    """

    code = "key-in-flight"


class KeyReused(KeyConflict):
    """This idempotency key was used for another request within 24 hours.

    Whose fault: the caller's.
    What to do: use a new key for a new request.
    """

    code = "key-reused"


class Unauthenticated(CallerError):
    """The request has no valid credentials. The text does not reveal what is wrong with them.

    Whose fault: the caller's, or the operator's who removed or rotated the token.
    What to do: send `Authorization: Bearer TOKEN` with a token that the configuration or the issuer accepts.
    """

    code = "unauthenticated"

    def __init__(self, message: str = "this needs a valid token: Authorization: Bearer TOKEN") -> None:
        super().__init__(message)


class Forbidden(CallerError):
    """The credentials are valid and lack the right that the text names.

    Whose fault: the caller's, or the operator's who granted too little.
    What to do: give the token that scope, or leave the request out.
    """

    code = "forbidden"


class NotParked(CallerError):
    """Nothing is parked at that place: it was dealt with already, or was never there.

    Whose fault: the operator's, who acts on an old list.
    What to do: look at what is parked now: `perdure parked list`.
    """

    code = "not-parked"


class NotAtHead(CallerError):
    """The command to skip is not at the head of its object, or is no longer. Nothing was skipped.

    Whose fault: the operator's, who acts on an old view.
    What to do: look at the object again: `perdure objects show`.
    """

    code = "not-at-head"
