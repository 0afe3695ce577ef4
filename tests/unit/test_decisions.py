"""The decisions behind the design: numbered, listed, and each says what was decided."""

from __future__ import annotations

import re
from pathlib import Path

DECISIONS = Path(__file__).parents[2] / "docs" / "decisions"
PAGES = sorted(path for path in DECISIONS.glob("*.md") if path.name != "index.md")


def test_each_decision_is_listed_once_by_its_title() -> None:
    """The index has all pages, in order, with their titles; numbers run from 001 on."""
    titles = [page.read_text().partition("\n")[0].removeprefix("# ") for page in PAGES]
    listed = re.findall(
        r"^\| (\d{3}) \| \[(.+)\]\((.+)\) \|$", (DECISIONS / "index.md").read_text(), re.MULTILINE
    )
    expected = zip(titles, PAGES, strict=True)
    assert listed == [(f"{n:03d}", title, page.name) for n, (title, page) in enumerate(expected, 1)]
    assert all(page.name.startswith(f"{n:03d}-") for n, page in enumerate(PAGES, 1))


def test_each_decision_says_what_was_decided_and_why_or_what_was_rejected() -> None:
    """A page of its own has a decision, and a reason or an alternative."""
    for page in PAGES:
        text = page.read_text()
        assert "**Decision.** " in text, page.name
        assert "**Why.** " in text or "**Rejected alternatives.**" in text, page.name
