"""The documents name files, terms, formats and headers that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.schemas import commands, journal
from perdure.schemas.seal import Seal
from perdure.streams import datadir
from perdure.streams.log.embedded import records
from perdure.streams.state import rows

ROOT = Path(__file__).parents[2]
TOP = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "findings/README.md",
    "compose/README.md",
)
FOLDERS = "api|streams|objects|schemas|src|tests|docs|examples|bench|compose|findings"


def pages() -> Iterator[Path]:
    """All documents."""
    yield from (ROOT / name for name in TOP)
    yield from sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("name", TOP)
def test_links_at_the_top_lead_to_files(name: str) -> None:
    """mkdocs checks those of docs/; these are read in the repository."""
    page = ROOT / name
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_files_that_documents_name_are_there() -> None:
    """`streams/…/x.py` and its like, from the root of the repository."""
    named = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)`")
    missing = [
        f"{page.relative_to(ROOT)}: {path}"
        for page in pages()
        for path in named.findall(page.read_text())
        if not (ROOT / path).exists()
    ]
    assert missing == []


def test_each_term_of_the_glossary_stands_once_and_is_linked() -> None:
    """One heading a term; other documents send readers there."""
    terms = re.findall(r"^### (.+)$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    assert len({term.lower() for term in terms}) == len(terms)
    linked = {
        anchor for page in pages() for anchor in re.findall(r"glossary\.md#([\w-]+)\)", page.read_text())
    }
    assert len(linked) > 15


def test_upgrading_names_the_formats_of_today() -> None:
    """The column "format now" has the numbers that are written."""
    text = (ROOT / "docs/upgrading.md").read_text().partition("## Formats")[2]
    now = dict(re.findall(r"^\| ([^|,]+)[^|]* \| (\d+)(?:;[^|]*)? \|", text, re.MULTILINE))
    assert {what.strip(): int(number) for what, number in now.items()} == {
        "data directory": datadir.FORMAT,
        "embedded log": records.FORMAT,
        "store": rows.FORMAT,
        "journal records": journal.VERSION,
        "command records": int(commands.VERSION),
    }


def test_record_layouts_name_the_headers_of_commands() -> None:
    """Each header that a record of a command can carry stands in the table, and no
    other; `perdure-v` is only read.
    """
    table = (ROOT / "docs/internals/records.md").read_text().partition("## Socket events")[0]
    named = set(
        re.findall(r"`((?:[a-z]+-)?[a-z]+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    )
    whole = commands.Command(
        "Counter/a", commands.FETCH, "GET", path="/", id="i", reply_to="0/r", deadline_ms=1, client_key="k",
        principal="p", traceparent="t", chain=("Counter/b@0:1",), mark=1, socket="n.1 g", hint="weur", forwarded="0:1:2",
    )  # fmt: skip
    headers = commands.sealed_record(whole, Seal("secret"))[2]
    assert {name for name, _ in headers} == named - {"perdure-v"}
