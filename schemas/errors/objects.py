"""Errors of the object: its code refused the command, or is at fault. Nothing was changed."""

from __future__ import annotations

from perdure.schemas.errors.base import PerdureError


class Refusal(PerdureError):
    """Raised by an object's handler to refuse a command: the turn rolls back, the object stays in memory
    (HTTP 409).

    Whose fault: a refusal is an answer, not a fault. The app's author says what each `code` means.
    What to do: handle it as the answer "no"; read `code` and `detail`.

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
    """The object's code failed, or uses `state` in a way that makes no sense. The root of the errors below
    it.

    Whose fault: the object's author's.
    What to do: correct the object; the text and the server's log name the place.
    """

    code = "object-error"


class HandlerFailed(ObjectError):
    """The handler raised an exception, whose type and message the text has. Its turn was rolled back.

    Whose fault: the object's author's. Its traceback is on the server's stderr.
    What to do: correct the handler; raise `Refusal` for an answer that is not a fault.
    """

    code = "handler-failed"


class BadReply(ObjectError):
    """The handler returned a value that cannot be a reply: not a `Response`, or not of the method's annotated
    type.

    Whose fault: the object's author's.
    What to do: return what the annotation says, or correct the annotation.
    """

    code = "bad-reply"


class NeverAwaited(ObjectError):
    """A coroutine that the handler made was never awaited, so it did nothing; the turn fails in place of
    silence.

    Whose fault: the object's author's. The text has file and line. Its code is that of `ObjectError`.
    What to do: write `await` before the call.
    """


class UnstorableValue(ObjectError, TypeError):
    """The object stored a value of a type that state cannot hold. The text names the key and the type.

    Whose fault: the object's author's.
    What to do: store a supported type, which docs/guide/state.md lists, or convert the value first.
    """

    code = "unstorable-value"


class UnfitValue(ObjectError, ValueError):
    """A stored value does not fit the `type` that `get` was called with. The text names both.

    Whose fault: the object's author's, whose type changed after the value was stored.
    What to do: give new fields defaults, or read the value without `type` and store it in the new form.
    """

    code = "unfit-value"


class TurnEnded(ObjectError):
    """State or a stub was used outside a turn.

    Whose fault: the object's author's: a task outlived the handler that started it.
    What to do: await what a handler starts before it returns.
    """

    code = "turn-ended"


class Deadlock(ObjectError):
    """The object called one that waits for it. The text has the chain.

    Whose fault: the author's of one of the objects in the chain.
    What to do: let one of them `send`, or answer without calling back.
    """

    code = "deadlock"


class NonDeterministic(ObjectError):
    """The turn ran again, after a crash, and did not repeat a call that it had made. The text names the call.

    Whose fault: the object's author's: what it calls depends on more than state, arguments and answers.
    What to do: use `state.random` and `state.uuid()`, and correct by hand what the named call did.
    """

    code = "non-deterministic"


class Runaway(ObjectError):
    """The handler ran for `limits.step_s` without awaiting, and was interrupted. Its turn was rolled back.

    Whose fault: the object's author's.
    What to do: await in long loops (`asyncio.sleep(0)`), or give the computation to a thread.
    """

    code = "runaway"


class Parked(ObjectError):
    """The process died `limits.charges` times while the object ran this command, which is not run again.

    Whose fault: the object's code, or a library that it uses, ends the process.
    What to do: find out why it died, then retry it (`perdure parked redrive`), or send it again with a new
    key.
    """

    code = "parked"


class Skipped(ObjectError):
    """An operator gave up this command. Nothing was changed.

    Whose fault: the command blocked its object; the operator's log says why it was skipped.
    What to do: ask the operator; send it again with a new idempotency key.
    """

    code = "skipped"
