"""Each failpoint of the code is one at which some test kills a process, or stops one."""

from __future__ import annotations

import re

from tests.unit.test_house import ROOT, names, sources

# only the random runs of the simulation die there: a step that deletes a namespace is folded in pieces
INSIDE_ONLY = {"state.removing"}


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
    assert {name: place for name, place in code.items() if name not in tests} == dict.fromkeys(
        INSIDE_ONLY, "streams/state/fold.py"
    )
