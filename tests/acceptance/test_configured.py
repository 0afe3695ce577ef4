"""Bindings and migrations as they are written for Cloudflare: the file is taken as
it stands, or told what is wrong.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.acceptance.harness import Deployment, port_of
from tests.acceptance.systems import EXAMPLES
from tests.acceptance.wire import PATIENCE_S, Wire
from tests.process import DidNotStart, Server

BINDINGS = """\
[[durable_objects.bindings]]
name = "COUNTER"
class_name = "Counter"
script_name = "my-worker"
"""
PRODUCTION = """\
[[env.production.durable_objects.bindings]]
name = "COUNTER"
class_name = "Strict"
"""
MIGRATION = """\
[[migrations]]
tag = "v1"
new_classes = ["Counter", "Strict"]
"""
# What stands in the post, to the letter but for its empty lines.
POST = BINDINGS + PRODUCTION.replace("Strict", "Counter") + MIGRATION.replace(', "Strict"', "")
# Two classes, so that it shows which one a binding means.
WORKER = """\
from counter import Counter
from perdure import Response

class Strict(Counter):
    async def fetch(self, request):
        if request.method == "POST":
            await self.increment(99)
        return await super().fetch(request)

async def fetch(request, env):
    return await env.COUNTER.get("shared").fetch(request)
"""
MAIN = '[perdure]\nmain = "index.py"\n'


def deployed(path: Path, wrangler: str) -> Deployment:
    folder = path / "app"
    folder.mkdir()
    shutil.copy(EXAMPLES / "counter.py", folder)
    if wrangler.startswith(MAIN):
        (folder / "index.py").write_text(WORKER)
    (folder / "wrangler.toml").write_text(wrangler)
    return Deployment(folder, path / "data")


async def _counts(server: Server, method: str, times: int, path: str = "/") -> list[int]:
    async with asyncio.timeout(PATIENCE_S), Wire(port_of(server)) as wire:
        answers = [await wire.ask(method, path) for _ in range(times)]
    assert {answer.status for answer in answers} == {200}, answers
    return [answer.json["count"] for answer in answers]


@pytest.mark.parametrize("options", [(), ("--env", "production")], ids=["plain", "production"])
def test_the_post_s_file_is_taken_as_it_stands(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A folder with it and a class, nothing else, is an app; what it counted is there after a SIGKILL."""
    deployment = deployed(tmp_path, POST)
    path = "/objects/Counter/alice"
    with deployment.serve(*options) as server:
        assert server.namespaces == ["Counter"]
        assert asyncio.run(_counts(server, "POST", 5, path)) == [1, 2, 3, 4, 5]
        server.kill()
    with deployment.serve(*options) as server:
        assert asyncio.run(_counts(server, "GET", 1, path)) == [5]
        assert server.stop() == 0


@pytest.mark.parametrize(("options", "step"), [((), 1), (("--env", "production"), 100)])
def test_bindings_of_an_environment_take_the_place_of_the_others(
    tmp_path: Path, options: tuple[str, ...], step: int
) -> None:
    """`env.COUNTER` is the class that the chosen environment says, and its data survive a SIGKILL."""
    deployment = deployed(tmp_path, MAIN + BINDINGS + PRODUCTION + MIGRATION)
    with deployment.serve(*options) as server:
        assert asyncio.run(_counts(server, "POST", 5)) == [step * n for n in range(1, 6)]
        server.kill()
    with deployment.serve(*options) as server:
        assert asyncio.run(_counts(server, "GET", 1)) == [5 * step]
        assert asyncio.run(_counts(server, "POST", 1)) == [6 * step]
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("wrangler", "told"),
    [
        (BINDINGS.replace('"Counter"', '"Nobody"') + MIGRATION, ("COUNTER", "Nobody")),
        (BINDINGS + MIGRATION.replace('"Counter", ', ""), ("COUNTER", "Counter", "migration")),
        (BINDINGS + MIGRATION + MIGRATION.replace('"Counter", "Strict"', '"Other"'), ("v1",)),
        (MIGRATION.replace('"Strict"', '"Nobody"'), ("Nobody",)),
        (BINDINGS + BINDINGS + MIGRATION, ("COUNTER",)),
    ],
    ids=["no such class", "made by no migration", "a tag twice", "makes no such class", "a name twice"],
)
def test_what_does_not_fit_together_is_told_at_start(
    tmp_path: Path, wrangler: str, told: tuple[str, ...]
) -> None:
    """One line on stderr that names the thing, exit 2, and no data directory is made."""
    deployment = deployed(tmp_path, MAIN + wrangler)
    with pytest.raises(DidNotStart) as refused, deployment.serve():
        pass
    (line,) = refused.value.stderr.splitlines()
    assert refused.value.returncode == 2, line
    assert line.startswith("perdure: config-error: ")
    assert all(word in line for word in told), line
    assert not deployment.data.exists()
