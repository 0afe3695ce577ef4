"""The pictures of the documents: drawn from the text beside them, shown somewhere, and true to the code."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from perdure.streams.turns.ports import OwnerState

DOCS = Path(__file__).parents[2] / "docs"
TEXTS = sorted((DOCS / "pictures").glob("*.d2"))


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_a_picture_is_drawn_from_the_text_beside_it(text: Path) -> None:
    """`make pictures` has run since the text was changed; what it made is well-formed."""
    svg = text.with_suffix(".svg").read_text()
    drawn_from = re.findall(r"<!-- drawn from sha256:(\w+) -->", svg)
    assert drawn_from == [hashlib.sha256(text.read_bytes()).hexdigest()], "run `make pictures`"
    assert ElementTree.fromstring(svg).tag.endswith("svg")


def test_each_picture_is_shown_with_words_for_those_who_cannot_see_it() -> None:
    """Each SVG has a text, and stands on a page with a sentence that says what it shows."""
    pictures = {path.name for path in (DOCS / "pictures").glob("*.svg")}
    assert pictures == {text.with_suffix(".svg").name for text in TEXTS}
    pages = "".join(path.read_text() for path in DOCS.rglob("*.md"))
    shown = dict(re.findall(r"!\[([^\]]*)\]\((?:\.\./)*pictures/([^)]+)\)", pages))
    assert set(shown.values()) == pictures
    assert all(len(words.split()) > 5 for words in shown)


def test_the_picture_of_an_owner_has_its_states() -> None:
    """Each state that `/readyz` can name is a box."""
    boxes = set(re.findall(r'^(\w+): "\1:', (DOCS / "pictures" / "owner.d2").read_text(), re.MULTILINE))
    assert boxes == {state.value for state in OwnerState} - {OwnerState.NEW.value}
