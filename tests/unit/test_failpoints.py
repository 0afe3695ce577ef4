"""Each failpoint of the code is one at which some test kills a process, or stops one."""

from __future__ import annotations

import re

from tests.unit.test_house import ROOT, names, sources

# what raises there stands for the death: a step that deletes a namespace is folded in pieces
# (tests/simulation), and a projection goes on from what its database has (test_projections.py)
INSIDE_ONLY = {"state.removing", "projections.before_write", "projections.after_write"}


def test_a_process_dies_at_each_failpoint_of_the_code() -> None:
    """By its name in a test with a real SIGKILL."""
    code = {
        name: names(path)
        for path in sources("api", "objects", "schemas", "streams")
        for name in re.findall(r'failpoints\.hit\(\s*"([a-z_.]+)"', path.read_text())
    }
    assert len(code) > 25
    killing = ("tests/acceptance", "tests/integration")
    tests = "\n".join(path.read_text() for folder in killing for path in (ROOT / folder).glob("test_*.py"))
    assert {
        name: place for name, place in code.items() if name not in tests and name not in INSIDE_ONLY
    } == {}
