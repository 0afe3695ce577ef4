"""The guide, worked through: each page in an empty folder, from its first line to its last."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.pages import ROOT, blocks, is_like, terminal

GUIDE = ROOT / "docs" / "guide"
ELSEWHERE = ["../async.md"]
PAGES = sorted(path.name for path in GUIDE.glob("*.md"))
ONLY_READ = {"promise.md", "cloudflare.md"}


@pytest.mark.parametrize("page", [*ELSEWHERE, *(name for name in PAGES if name not in ONLY_READ)])
def test_a_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    """What is typed prints what the page shows."""
    with terminal(tmp_path) as opened:
        assert opened.work_through((GUIDE / page).read_text()) > 0


RECIPES = sorted(path.name for path in (ROOT / "docs" / "recipes").glob("*.md") if path.name != "index.md")


@pytest.mark.parametrize("page", RECIPES)
def test_a_recipe_does_what_it_says(page: str, tmp_path: Path) -> None:
    """What is typed to the examples prints what the page shows."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with terminal(tmp_path) as opened:
        assert opened.work_through((ROOT / "docs" / "recipes" / page).read_text()) > 0


def test_every_example_is_a_recipe() -> None:
    """And the index of the recipes names each heading once."""
    pages = {name: (ROOT / "docs" / "recipes" / name).read_text() for name in RECIPES}
    shown = {
        name
        for text in pages.values()
        for name in re.findall(r'^--8<-- "(examples/[^"]+)"$', text, re.MULTILINE)
    }
    assert shown == {f"examples/{path.name}" for path in (ROOT / "examples").iterdir() if path.is_file()}
    index = (ROOT / "docs" / "recipes" / "index.md").read_text()
    headings = [
        heading for text in pages.values() for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)
    ]
    assert sorted(re.findall(r"\[([^]]+)\]\(\w+\.md#", index)) == sorted(headings)


def test_what_is_only_read_has_nothing_to_run() -> None:
    """No code stands there that nobody tries."""
    for page in ONLY_READ:
        assert not blocks((GUIDE / page).read_text()), page


def test_a_page_that_is_wrong_is_found_out(tmp_path: Path) -> None:
    """A line that prints something else fails, with both."""
    page = "```console\n$ echo two words\ntwo …\n$ echo three\nfour\n```\n"
    with terminal(tmp_path) as opened, pytest.raises(AssertionError, match="instead of\nfour"):
        opened.work_through(page)
    assert is_like("a\nb\nc\n", "a\n…c")
    assert not is_like("a\nb\nc\nd", "a\n…c")


def test_the_guide_is_built_without_a_warning(tmp_path: Path) -> None:
    """All links lead somewhere, and every page has its place."""
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "guide" / "tutorial.html").exists()
