"""What a command imports: each process pays for it before it does anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.process import clean_environ, serve

import perdure

# each costs tens of milliseconds; a command that needs one imports it itself
HEAVY = {"asyncio", "httpx", "msgspec", "prometheus_client", "pydantic", "rich", "structlog", "uvicorn"}


def modules_after(code: str) -> set[str]:
    """The modules of a new process that ran `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps([*sys.modules]))"],
        capture_output=True,
        text=True,
        check=True,
        env=clean_environ(),
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("imported", ["perdure", "perdure.api.cli"])
def test_a_command_begins_with_the_standard_library_and_typer(imported: str) -> None:
    """`perdure --version` and a shell's completion take what they show, and no more."""
    assert not HEAVY & modules_after(f"import {imported}")


def test_the_face_imports_what_is_used() -> None:
    """A name is there by attribute and by `from … import …`, in `dir`, and in no
    process that does not use it.
    """
    after = modules_after("import perdure\nassert 'State' in dir(perdure)\nfrom perdure import PerdureError")
    assert "perdure.schemas.errors" in after
    assert "perdure.objects.state" not in after
    with pytest.raises(AttributeError, match="module 'perdure' has no attribute 'Typo'"):
        _ = perdure.Typo


def test_a_server_starts_without_what_it_may_never_need(tmp_path: Path) -> None:
    """Not rich, which structlog would take along, nor what answers the first
    scrape or fetches from outside.
    """
    seen = tmp_path / "modules.json"
    app = tmp_path / "app.py"
    app.write_text(
        "import json, sys\nfrom pathlib import Path\nfrom perdure import DurableObject\n"
        f"Path({str(seen)!r}).write_text(json.dumps([*sys.modules]))\n"
        "class Thing(DurableObject): ...\n"
    )
    with serve(app, tmp_path / "data", imports=True):
        modules = set(json.loads(seen.read_text()))
    assert "perdure.api.node" in modules
    assert not {"rich", "prometheus_client", "http.cookiejar", "httpx", "aiokafka", "cronsim"} & modules


def test_a_client_of_the_command_line_takes_httpx_without_its_own() -> None:
    """`perdure call` and the admin's commands: nothing of rich and click, and rich
    is there again for help and errors.
    """
    after = modules_after(
        "from perdure.api.cli import main\n"
        "try:\n    main(['call', 'Counter/a', 'add', '--url', 'http://127.0.0.1:1'])\n"
        "except SystemExit as ended:\n    assert ended.code == 1"
    )
    assert "httpx" in after
    assert not {"rich", "rich.console"} & after
    assert "rich.console" in modules_after(
        "from perdure.api.cli.output import without_rich\nwith without_rich():\n    import httpx\nimport rich.console"
    )
