"""Migrations through the real command line: renamed, deleted, cut in the middle by
SIGKILL, and edited afterwards.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from tests.kafka import Kafka
from tests.process import DidNotStart, Server, run, serve

APP = """
from perdure import DurableObject, Request, Response

class {counter}(DurableObject):
    async def fetch(self, request: Request) -> Response:
        count = await self.state.get("count", 0) + (request.method == "POST")
        if request.method == "POST":
            await self.state.put("count", count)
        return Response.json({{"count": count}})
{more}
"""
OLD = "class Old(Counter): pass\n"
V1 = '[[migrations]]\ntag = "v1"\nnew_classes = ["Counter", "Old"]\n'
V2 = '[[migrations]]\ntag = "v2"\ndeleted_classes = ["Old"]\nrenamed_classes = [{from = "Counter", to = "Tally"}]\n'
MOVED = V2.replace("renamed_classes = [{", 'transferred_classes = [{from_script = "shop", ')
# As it stands in the wild
WRANGLER = """\
[[durable_objects.bindings]]
name = "COUNTER"
class_name = "Counter"
script_name = "my-worker"

[[env.production.durable_objects.bindings]]
name = "COUNTER"
class_name = "Counter"

[[migrations]]
tag = "v1"
new_classes = ["Counter"]
"""
NAMES = [f"n{number}" for number in range(20)]


def deployed(folder: Path, config: str, *, counter: str = "Counter", more: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "app.py").write_text(APP.format(counter=counter, more=more))
    (folder / "perdure.toml").write_text(f'main = "app.py"\nname = "shop"\npartitions = 4\n{config}')
    return folder


def counts(server: Server, namespace: str, method: str = "GET") -> list[object]:
    with httpx.Client(base_url=server.url) as client:
        answers = [client.request(method, f"/objects/{namespace}/{name}") for name in NAMES]
    return [answer.json().get("count") or answer.json()["title"] for answer in answers]


@pytest.mark.parametrize("v2", [V2, MOVED], ids=["renamed", "transferred"])
@pytest.mark.parametrize("failpoint", ["owner.before_migration", "owner.after_migration"])
def test_a_migration_cut_in_the_middle_is_finished_by_the_next_start(
    tmp_path: Path, failpoint: str, v2: str
) -> None:
    """Killed when some partitions have their step and others not: the next start ends it, and verify agrees.

    A class that is transferred from this very app brings its data, in its
    namespace, as one that is renamed does.
    """
    data = tmp_path / "data"
    app = deployed(tmp_path / "app", V1, more=OLD)
    with serve(app, data) as server:
        assert counts(server, "Counter", "POST") == counts(server, "Old", "POST") == [1] * len(NAMES)
        server.kill()
    deployed(app, V1 + v2, counter="Tally")
    with (
        pytest.raises(DidNotStart) as died,
        serve(app, data, environ={"PERDURE_FAILPOINT": f"{failpoint}:3"}),
    ):
        pass
    assert died.value.returncode == -signal.SIGKILL
    if failpoint == "owner.after_migration":  # so that it has run in some partitions
        deployed(app, V1, more=OLD)
        with pytest.raises(DidNotStart) as refused, serve(app, data):
            pass
        assert refused.value.returncode == 2, "there is no way back, though some partitions have not gone on"
        assert 'migration "v2" has run' in refused.value.stderr
        deployed(app, V1 + v2, counter="Tally")
    with serve(app, data) as server:
        assert server.namespaces == ["Counter"]
        assert counts(server, "Counter", "POST") == [2] * len(NAMES)
        assert counts(server, "Old") == ["unknown namespace"] * len(NAMES)
        server.kill()
    found = run("verify", str(app), "--data", str(data), "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["differences"] == 0


def test_a_history_that_was_edited_does_not_start(tmp_path: Path) -> None:
    """A tag that has run and is gone, or says something else, is a configuration error naming it."""
    data = tmp_path / "data"
    app = deployed(tmp_path / "app", V1 + V2, counter="Tally")
    with serve(app, data) as server:
        assert server.stop() == 0
    for edited, counter in ((V1, "Counter"), (V1 + V2.replace('deleted_classes = ["Old"]\n', ""), "Tally")):
        deployed(app, edited, counter=counter, more="class Old(DurableObject): pass\n")
        with pytest.raises(DidNotStart) as refused, serve(app, data):
            pass
        assert refused.value.returncode == 2
        assert 'perdure: config-error: migration "v2" has run' in refused.value.stderr


THEIRS = """
from perdure import DurableObject, Request, Response

class Theirs(DurableObject):
    async def fetch(self, request: Request) -> Response:
        count = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        await self.state.put("gone", count)
        await self.state.put("late", count, expiration_ttl=3600)
        await self.state.put("large", b"x" * 600_000)
        await self.state.put("larger", b"y" * 600_000)
        await self.state.set_alarm(self.state.now + 3_600_000, name="tea")
        return Response.json({"count": count})

    async def alarm(self, info) -> None:
        pass

    async def forget(self) -> None:
        await self.state.delete("gone")
"""


def test_a_class_of_another_app_moves_in_with_what_its_objects_hold(tmp_path: Path, log: str) -> None:
    """Over a SIGKILL in its middle, once; the other app keeps what it has, and who
    serves it is in the way or stops.
    """
    theirs, ours = f"t{uuid4().hex[:12]}", f"t{uuid4().hex[:12]}"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "app.py").write_text(THEIRS)
    head = f'main = "app.py"\nname = "{theirs}"\npartitions = 3\nlog = "{log}"\n'
    (tmp_path / "theirs" / "perdure.toml").write_text(
        head + '[[migrations]]\ntag = "1"\nnew_classes = ["First"]\n'
        '[[migrations]]\ntag = "2"\nrenamed_classes = [{from = "First", to = "Theirs"}]\n'
    )
    where = ', data = "../their-data"' if log == "embedded" else ""
    moved = f'transferred_classes = [{{from = "Theirs", from_script = "{theirs}", to = "Counter"{where}}}]'
    app = deployed(tmp_path / "app", f'log = "{log}"\n[[migrations]]\ntag = "v1"\n{moved}\n')
    config = (app / "perdure.toml").read_text().replace('name = "shop"', f'name = "{ours}"')
    (app / "perdure.toml").write_text(config)
    more = "    async def alarm(self, info): pass\n"
    (app / "app.py").write_text(APP.format(counter="Counter", more=more))
    data = tmp_path / "data"
    with serve(tmp_path / "theirs", tmp_path / "their-data") as server:
        assert counts(server, "First", "POST") == [1] * len(NAMES)
        if log == "embedded":
            with pytest.raises(DidNotStart, match="their-data is in use"), serve(app, data):
                pass
            assert server.stop() == 0
    for times in (3, 5):
        environ = {"PERDURE_FAILPOINT": f"owner.moved_in:{times}"}
        with pytest.raises(DidNotStart) as killed, serve(app, data, environ=environ):
            pass
        assert killed.value.returncode == -signal.SIGKILL
        with serve(tmp_path / "theirs", tmp_path / "their-data") as server:  # what has come is not final yet
            for name in NAMES:
                assert httpx.post(f"{server.url}/rpc/First/{name}/forget").status_code == 200
            assert server.stop() == 0
    for count in (2, 3):
        with serve(app, data) as server:
            assert counts(server, "Counter", "POST") == [count] * len(NAMES)
            shown = httpx.get(f"{server.url}/admin/objects/Counter/n7/alarms").json()["alarms"]
            assert [each["name"] for each in shown] == ["tea"]
            assert httpx.get(f"{server.url}/admin/objects/Counter").json()["objects"] == sorted(NAMES)
            for prefix, names in (
                ("gone", set()),
                ("late", {"late"}),
                ("larger", {"larger"}),
                ("large", {"large"}),
            ):
                state = httpx.get(f"{server.url}/admin/objects/Counter/n7/state?prefix={prefix}").json()
                assert state["values"].keys() == names
                assert state["expires_ms"].keys() == names & {"late"}
            server.kill()
    done = run("verify", str(app), "--data", str(data), "--json")
    assert done.returncode == 0, done.stderr
    with serve(tmp_path / "theirs", tmp_path / "their-data") as server:
        assert counts(server, "First", "POST") == [2] * len(NAMES)
    wrong = config.replace('from = "Theirs"', 'from = "Nobody"').replace(ours, f"{ours}x")
    (app / "perdure.toml").write_text(wrong)
    with (
        pytest.raises(DidNotStart, match="has no class Nobody; it has: Theirs"),
        serve(app, tmp_path / "other"),
    ):
        pass


def test_what_an_app_has_written_itself_stays_when_a_class_moves_in(tmp_path: Path) -> None:
    """Its first migration adopts what is there, and brings more: of two objects of
    one name its own stays, whenever written.
    """
    there, here, data = deployed(tmp_path / "theirs", ""), deployed(tmp_path / "app", ""), tmp_path / "data"
    (there / "perdure.toml").write_text((there / "perdure.toml").read_text().replace('"shop"', '"theirs"'))
    with serve(there, tmp_path / "their-data") as server:
        assert counts(server, "Counter", "POST") == [1] * len(NAMES)
        assert server.stop() == 0
    moved = '{from = "Counter", from_script = "theirs", to = "Counter", data = "../their-data"}'
    migration = f'[[migrations]]\ntag = "v1"\ntransferred_classes = [{moved}]\n'
    for config in ("", migration, "", migration):
        deployed(here, config)
        if config:
            cut = {"PERDURE_FAILPOINT": "owner.before_migration:1"}
            with pytest.raises(DidNotStart), serve(here, data, environ=cut):
                pass
            continue
        with serve(here, data) as server:
            for name in NAMES[:3]:
                assert httpx.post(f"{server.url}/objects/Counter/{name}").status_code == 200
            assert server.stop() == 0
    with serve(here, data) as server:
        assert counts(server, "Counter") == [2] * 3 + [1] * (len(NAMES) - 3)
        assert server.stop() == 0
    done = run("verify", str(here), "--data", str(data), "--json")
    assert done.returncode == 0, done.stderr


def test_on_kafka_a_node_that_serves_what_moves_stops(kafka: Kafka, tmp_path: Path) -> None:
    """It is fenced, so that nothing is acknowledged over there that has not been copied."""
    theirs, on = f"t{uuid4().hex[:12]}", f'log = "kafka://{kafka.bootstrap}"\n'
    there = deployed(tmp_path / "theirs", on)
    (there / "perdure.toml").write_text((there / "perdure.toml").read_text().replace('"shop"', f'"{theirs}"'))
    moved = f'transferred_classes = [{{from = "Counter", from_script = "{theirs}", to = "Tally"}}]'
    here = deployed(tmp_path / "app", f'{on}[[migrations]]\ntag = "v1"\n{moved}\n', counter="Tally")
    (here / "perdure.toml").write_text((here / "perdure.toml").read_text().replace('"shop"', f'"{theirs}x"'))
    with serve(there, tmp_path / "their-data") as server:
        assert counts(server, "Counter", "POST") == [1] * len(NAMES)
        right = (here / "perdure.toml").read_text()
        (here / "perdure.toml").write_text(right.replace('from = "Counter"', 'from = "Conuter"'))
        with (
            pytest.raises(DidNotStart, match="has no object of a class Conuter; it has: Counter"),
            serve(here, tmp_path / "data"),
        ):
            pass
        assert counts(server, "Counter") == [1] * len(NAMES), "nothing was claimed for what cannot be"
        (here / "perdure.toml").write_text(right)
        with serve(here, tmp_path / "data") as ours:
            assert counts(ours, "Tally", "POST") == [2] * len(NAMES)
        answer = httpx.post(f"{server.url}/objects/Counter/{NAMES[0]}", timeout=60)
        assert answer.json()["type"] == "urn:perdure:problem:outcome-unknown"  # it is on that app's log
        states = {each["state"] for each in httpx.get(f"{server.url}/readyz").json()["partitions"]}
        assert states == {"fenced"}


def test_a_class_of_another_script_starts_empty_and_is_told(tmp_path: Path) -> None:
    """Of an app whose data nobody names: a transfer makes a new namespace, with a
    warning the one time it runs.
    """
    moved = '[[migrations]]\ntag = "v1"\ntransferred_classes = [{from = "Theirs", from_script = "x", to = "Counter"}]\n'
    app = deployed(tmp_path / "app", moved)
    for told in (1, 0):
        with serve(app, tmp_path / "data") as server:
            assert server.namespaces == ["Counter"]
            assert server.stop() == 0
            assert server.stderr().count("migration 'v1': Counter begins empty") == told


def test_objects_that_no_class_serves_any_more_are_told_of(tmp_path: Path) -> None:
    """A class that is called otherwise, and no migration says so: its objects are
    kept, and a warning names the remedy.
    """
    app, data, told = (
        deployed(tmp_path / "app", ""),
        tmp_path / "data",
        "objects of Counter are kept and not served",
    )
    with serve(app, data) as server:
        assert counts(server, "Counter", "POST") == [1] * len(NAMES)
        assert server.stop() == 0
        assert told not in server.stderr()
    deployed(app, "", counter="Tally")
    with serve(app, data) as server:
        assert server.namespaces == ["Tally"]
        assert server.stop() == 0
        assert server.stderr().count(told) == 1
        assert "renamed_classes" in server.stderr()
    deployed(
        app,
        '[[migrations]]\ntag = "v1"\nnew_classes = ["Counter"]\n[[migrations]]\ntag = "v2"\n'
        'renamed_classes = [{from = "Counter", to = "Tally"}]\n',
        counter="Tally",
    )
    with serve(app, data) as server:
        assert counts(server, "Counter", "POST") == [2] * len(NAMES)
        assert told not in server.stderr()


def test_objects_whose_namespace_has_lost_its_class_to_another_can_be_had_back(tmp_path: Path) -> None:
    """Renamed in the code alone, used, and only then by a migration: what deleting the class would hit is
    said, and the steps that the warning names lead to the objects written in between.
    """
    app, data = deployed(tmp_path / "app", ""), tmp_path / "data"
    with serve(app, data) as server:
        assert counts(server, "Counter", "POST") == [1] * len(NAMES)
    deployed(app, "", counter="Tally")
    with serve(app, data) as server:
        assert counts(server, "Tally", "POST") == [1] * len(NAMES)
    renamed = (
        '[[migrations]]\ntag = "v1"\nnew_classes = ["Counter"]\n[[migrations]]\ntag = "v2"\n'
        'renamed_classes = [{from = "Counter", to = "Tally"}]\n'
    )
    deployed(app, renamed, counter="Tally")
    with serve(app, data) as server:
        assert counts(server, "Counter", "POST") == [2] * len(NAMES)
        assert server.stop() == 0
        assert "objects of Tally are kept and not served" in server.stderr()
        assert "deleted_classes would delete the objects of Counter" in server.stderr()
    freed = '[[migrations]]\ntag = "v3"\nrenamed_classes = [{from = "Tally", to = "Sum"}]\n'
    anew = '[[migrations]]\ntag = "v4"\nnew_classes = ["Tally"]\n'
    deployed(app, renamed + freed + anew, counter="Sum", more="class Tally(Sum): pass\n")
    with serve(app, data) as server:
        assert counts(server, "Counter") == [2] * len(NAMES)
        assert counts(server, "Tally") == [1] * len(NAMES)
        assert server.stop() == 0
        assert "not served" not in server.stderr()


def test_the_post_s_wrangler_file_serves_as_it_stands(tmp_path: Path) -> None:
    """Bindings, an environment and a migration, nothing else: `perdure serve` of the folder is a counter."""
    deployed(tmp_path / "app", "")
    (tmp_path / "app" / "perdure.toml").unlink()
    (tmp_path / "app" / "wrangler.toml").write_text(WRANGLER)
    for place, options in (("data", ()), ("production", ("--env", "production"))):
        with serve(tmp_path / "app", tmp_path / place, *options) as server:
            assert counts(server, "Counter", "POST") == [1] * len(NAMES)
