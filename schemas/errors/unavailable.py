"""Errors of the way: the command was not done, or it is not known whether it was."""

from __future__ import annotations

from perdure.schemas.errors.base import PerdureError


class Unavailable(PerdureError):
    """The command was not done: its partition or node starts or stops, or the log did not take it (HTTP 503).

    Whose fault: the server's; it passes by itself. The root of the errors below it.
    What to do: send the command again after `retry_after_s`.

    Attributes:
        retry_after_s: when to send it again, in seconds; a hint.
    """

    code = "unavailable"
    retry_after_s: float = 1.0


class Unreachable(Unavailable):
    """No attempt of a call by `perdure.connect` reached a server, so nothing was done.

    Whose fault: the URL is wrong, or no server runs there. Raised by the client only, with the code
    `unavailable`.
    What to do: check the URL, that a server runs there, and the network between.
    """


class Overloaded(Unavailable):
    """A bound was reached before anything was appended: a full mailbox, or more commands than fit in the
    deadline.

    Whose fault: more is sent than the object or the node can do.
    What to do: send it again after `retry_after_s`, send less at once, or spread the load over more objects.

    message: which bound, and what to do.
    retry_after_s: when to send the command again, in seconds; a hint.
    """

    code = "overloaded"

    def __init__(self, message: str = "a bound was reached", *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ObjectPaused(Unavailable):
    """The object is paused, and `limits.mailbox` commands wait for it already.

    Whose fault: the operator's, who paused the object.
    What to do: send it again once the object is resumed (`perdure objects resume`).
    """

    code = "paused"


class OverQuota(Unavailable):
    """The principal's quota, which the text names, is used up (HTTP 429).

    Whose fault: the caller's, who sends or creates more than the operator allows.
    What to do: send it again after `retry_after_s`, delete objects, or raise `[quotas]`.

    message: which quota.
    retry_after_s: when to send the command again, in seconds; a hint.
    """

    code = "over-quota"

    def __init__(
        self, message: str = "more than this principal's quota", *, retry_after_s: float = 1.0
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Expired(Unavailable):
    """The deadline (`deadline_s`) passed before the turn could commit, so nothing was changed.

    Whose fault: the object's, if it is slow or waits for something slow; otherwise more was sent to it than
    it can do.
    What to do: send it again; find what keeps the object busy, or raise `deadline_s`.
    """

    code = "expired"


class AskAgain(Unavailable):
    """The command changed nothing, and its answer was lost with the partition's owner.

    Whose fault: the server's: the node that had the answer ended.
    What to do: send it again.
    """

    code = "ask-again"


class FetchFailed(PerdureError):
    """`perdure.fetch` got no HTTP response. The text names method, URL and reason.

    Whose fault: the other server's, or the network's; or the URL is wrong.
    What to do: catch it in the handler, or let the turn fail and be sent again.
    """

    code = "fetch-failed"


class FetchTimedOut(FetchFailed):
    """`perdure.fetch` did not have the whole response in time (`timeout=`, or `deadline_s`).

    Whose fault: the other server's, which is slow; or the time is too short.
    What to do: allow more time, or try again later. The request may have had its effect there.
    """

    code = "fetch-timed-out"


class FetchTooLarge(FetchFailed):
    """The body of a response to `perdure.fetch` is over `limits.fetch_bytes`, unpacked.

    Whose fault: the request asks for more than the limit allows.
    What to do: request less at once, or raise the limit.
    """

    code = "fetch-too-large"


class OutcomeUnknown(PerdureError):
    """The command may have taken effect: no answer came in time, or the log did not acknowledge it (HTTP
    504).

    Whose fault: the server's or the network's: a node or the log ended, or is slow.
    What to do: repeat it with the same idempotency key, or look at `GET /commands/{command}`. Without a key a
    repetition may do it twice.

    Attributes:
        command: its id for `GET /commands/{id}`; empty if it is not known.
    """

    code = "outcome-unknown"

    def __init__(self, message: str = "", command: str = "") -> None:
        super().__init__(message)
        self.command = command


class FailedInside(PerdureError):
    """perdure itself failed while it worked on the command. Nothing was changed.

    Whose fault: perdure's.
    What to do: report it, with the traceback on the server's stderr. Other commands are not affected.
    """

    code = "internal-error"
