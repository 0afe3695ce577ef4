"""The root of the tree of errors."""

from __future__ import annotations


class PerdureError(Exception):
    """The root of all errors that perdure raises: `except perdure.PerdureError` catches each of them.

    Whose fault: each branch below says it: the caller's, the object's, the server's, the operator's.
    What to do: catch a more precise class where the program can act on it.

    Attributes:
        code: a stable word for the error: `urn:perdure:problem:{code}` over HTTP, the code in records and on
            the command line.
    """

    code: str = "error"  # of a class; a Refusal has its own
    of_call = False  # raised in a caller for what another object answered
