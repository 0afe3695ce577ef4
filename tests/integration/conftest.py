"""Fixtures that several files of this folder share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "counter.py"


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """The example alone in its folder: beside the others it has their configuration."""
    folder = tmp_path / "alone"
    folder.mkdir()
    return Path(shutil.copy(EXAMPLE, folder))
