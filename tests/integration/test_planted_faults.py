"""Faults put into the parser of requests and the page ACKED on purpose: the cases
that hold their rules notice each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_acked import acknowledged, dead_at_an_answer, nothing, run
from tests.integration.test_http import (
    door,
)
from tests.integration.test_http import (
    test_a_request_has_one_answer_however_it_arrives as one_answer,
)
from tests.unit.test_http1 import HEAD_BYTES, Told

from perdure.api.http1 import heads, parser
from perdure.schemas.errors import LogCorrupt
from perdure.streams.log.embedded import records
from perdure.streams.log.embedded.acked_page import acked_in

__all__ = ["door"]


@contextmanager
def planted(place: Any, name: str, made: Callable[[Any], Any]) -> Iterator[None]:
    """What `made` makes of a function is there in its place; nothing is remembered from before, or after."""
    true = getattr(place, name)
    heads._cached_fields.cache_clear()
    setattr(place, name, made(true))
    try:
        yield
    finally:
        setattr(place, name, true)
        heads._cached_fields.cache_clear()


def body_dropped_behind_an_offer() -> Any:
    """A request that offers another protocol is taken for one without a body."""

    def read(true: Any) -> Any:
        def bodiless(data: bytes, at: int, end: int) -> Any:
            head = true(data, at, end)
            offers = any(name == b"upgrade" for name, _ in head.headers)
            return head._replace(size=0) if offers else head

        return bodiless

    return planted(parser, "read_request_head", read)


def head_bytes_counted_per_read() -> Any:
    """A head that comes in small pieces may be as long as it likes."""
    last = [0]

    def fed(true: Any) -> Any:
        def feed(self: Any, data: bytes) -> Any:
            last[0] = len(data)
            return true(self, data)

        return feed

    def look_at(true: Any) -> Any:
        def short_sighted(self: Any, part: bytes) -> None:
            if last[0] >= len(part):
                true(self, part)

        return short_sighted

    @contextmanager
    def both() -> Iterator[None]:
        with (
            planted(parser.RequestParser, "feed", fed),
            planted(parser.RequestParser, "_look_at", look_at),
        ):
            yield

    return both()


def second_host_overlooked() -> Any:
    """Of two headers Host the first counts."""

    def read(true: Any) -> Any:
        def first_only(block: bytes, new: bool) -> Any:
            lines, kept, hosts = block[2:].split(b"\r\n"), [], 0
            for line in lines:
                hosts += (is_host := line.lower().startswith(b"host:"))
                if not (is_host and hosts > 1):
                    kept.append(line)
            return true(b"\r\n" + b"\r\n".join(kept), new)

        return first_only

    return planted(heads, "_cached_fields", read)


@pytest.mark.parametrize(
    ("bug", "names", "way"),
    [
        (body_dropped_behind_an_offer, ["an offer of h2c"], "at once"),
        (second_host_overlooked, ["two Hosts", "two Hosts in HTTP/1.0"], "byte by byte"),
    ],
)
def test_the_cases_notice_a_planted_fault(
    door: Any, bug: Callable[[], Any], names: list[str], way: str
) -> None:
    """Each of these cases is right without the fault, and wrong with it."""
    assert names
    for name in names:
        one_answer(door, name, way)
    with bug():
        for name in names:
            with pytest.raises(AssertionError):
                one_answer(door, name, way)


def test_the_parser_s_own_cases_notice_a_bound_per_read() -> None:
    """A head of one byte too many, a byte at a time: refused, and with the fault
    read; so the pieces make a difference.
    """
    head = b"GET / HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n"
    head = head.replace(b"%b", b"y" * (HEAD_BYTES - len(head) + 3))
    pieces = [head[at : at + 1] for at in range(len(head))]
    assert Told().feed(*pieces) == Told().feed(head)
    with head_bytes_counted_per_read():
        assert Told().feed(*pieces) != Told().feed(head)


def test_a_page_that_is_not_looked_at_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last acknowledged commit is cut off: with the page that is refused, without it the log opens."""
    found = acknowledged(tmp_path / "log")
    os.truncate(found.wal, found.starts[-1] + 3)
    with pytest.raises(LogCorrupt, match="were acknowledged"):
        run(nothing, found.path)
    monkeypatch.setattr(records, "acked_in", lambda folder: 0)
    run(nothing, found.path)


LATE = """
true = Acked.store

def late(self, number):
    true(self, getattr(self, "due", number))
    self.due = number

Acked.store = late
"""


def test_a_page_that_is_written_after_the_answer_is_noticed(tmp_path: Path) -> None:
    """One commit late: the page does not know of what was answered last, and that is cut off."""
    found = dead_at_an_answer(tmp_path / "log", LATE)
    assert acked_in(found.path) == found.last[-2]
    os.truncate(found.wal, found.starts[-1] + 3)
    run(nothing, found.path)
