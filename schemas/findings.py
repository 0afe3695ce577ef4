"""Findings: the results of checks of a broker, a disk or a clock, as `perdure doctor` prints them."""

from __future__ import annotations

from typing import Literal, NamedTuple

OK: Literal["ok"] = "ok"
WARNING: Literal["warning"] = "warning"
REFUSED: Literal["refused"] = "refused"


class Finding(NamedTuple):
    """The result of one check.

    check: what was checked.
    state: `refused` if a node does not start with it; `warning` if it starts, and a promise is weaker.
    text: what was seen, and what it means.
    mend: how to mend it; empty if there is nothing to mend.
    """

    check: str
    state: Literal["ok", "warning", "refused"]
    text: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.check}: {self.text}{f'. {self.mend}' if self.mend else ''}"
