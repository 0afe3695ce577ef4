"""The documents say what is there: errors, files, settings, metrics; and the counter of the README runs."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

from tests.unit.one_owner import OneOwner, story

from perdure.api.admin.projections import METRICS
from perdure.api.gateway import Gateway
from perdure.api.problems import STATUS, problem_of, problem_of_reply
from perdure.api.telemetry.metrics import exposition
from perdure.objects.durable import DurableObject
from perdure.objects.registry import Registry
from perdure.schemas import errors
from perdure.schemas.config import Config, Limits, parse_config
from perdure.schemas.errors import ObjectError, PerdureError, Refusal
from perdure.schemas.journal import NO_CHAIN, NoOp, encode_chained
from perdure.schemas.kafka import Kafka
from perdure.schemas.replies import FAILED, REFUSED, ErrorInfo, Reply
from perdure.schemas.snapshots import SnapshotConfig
from perdure.streams.snapshots.counts import SnapshotCounts

ROOT = Path(__file__).parents[2]
ROOMS = ("api", "streams", "objects", "schemas")


def document(name: str) -> str:
    return (ROOT / name).read_text()


def first_cells(text: str) -> dict[str, str]:
    """The tables of a document: what stands first in a row, in backticks → what stands second."""
    return dict(re.findall(r"^\| `([^`|]+)` \|([^|]*)\|", text, re.MULTILINE))


def statuses() -> dict[str, int]:
    """Each code → the HTTP status that it is told with."""
    found = dict(STATUS)
    for cls in vars(errors).values():
        if not (isinstance(cls, type) and issubclass(cls, PerdureError)):
            continue
        if issubclass(cls, ObjectError | Refusal):
            outcome = REFUSED if cls is Refusal else FAILED
            found[cls.code] = problem_of_reply(outcome, ErrorInfo(cls.code, ""))[0]
        else:
            found[cls.code] = problem_of(cls())[0]
    return found


def test_every_error_is_described_with_its_status() -> None:
    """docs/errors.md has each code once, with the status that the door gives it, and no other code."""
    told = first_cells(document("docs/errors.md"))
    at_start = {code for code, status in told.items() if status == " at start "}
    there = statuses()
    assert told.keys() == there.keys() - {PerdureError.code}
    assert {code: int(status) for code, status in told.items() if code not in at_start} == {
        code: there[code] for code in told if code not in at_start
    }


def calls_in(room: str) -> Iterator[tuple[str, ast.Call]]:
    """Each call in a room's code, with the name of what is called."""
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func).rpartition(".")[2], node


def test_every_code_that_is_written_down_somewhere_has_its_status() -> None:
    """What a door answers with a code of its own, or an object's code by perdure's
    hand, is in the table of statuses.
    """
    written = set()
    for room in ROOMS:
        for name, call in calls_in(room):
            if name == "problem":
                written |= {each.value for each in call.args[:1] if isinstance(each, ast.Constant)}
            if name == "Refusal":
                values = [each.value for each in call.keywords if each.arg == "code"]
                written |= {each.value for each in values if isinstance(each, ast.Constant)}
    assert written >= {"internal-error", "bad-body"}
    assert written <= STATUS.keys()


def test_every_error_without_a_code_of_its_own_is_described() -> None:
    """The tables of docs/errors.md go by code; a class that shares its parent's is named there too."""
    shared = [each.__name__ for each in errors.tree() if "code" not in vars(each)]
    assert sorted(shared) == ["NeverAwaited", "Unreachable"]
    assert [name for name in shared if f"`{name}`" not in document("docs/errors.md")] == []


def test_the_file_map_has_every_file_of_the_rooms_and_no_other() -> None:
    """docs/architecture.md lists the files as they are."""
    there = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if path.stat().st_size
    }
    text = document("docs/architecture.md").partition("## File map")[2]
    assert re.findall(r"^\| `([^`]+\.py)` \|", text, re.MULTILINE) == sorted(
        there, key=lambda name: (ROOMS.index(name.partition("/")[0]), name)
    )


def functions_in(path: Path) -> set[str]:
    """The functions of a file, and the methods as `Class.method`."""
    body = ast.parse(path.read_text()).body
    methods = {
        f"{cls.name}.{node.name}"
        for cls in body
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    found = {node for top in body for node in ast.walk(top) if isinstance(node, ast.FunctionDef)}
    return methods | {node.name for node in found if node.col_offset in (0, 4)}


def test_the_way_of_a_command_names_functions_that_are_there() -> None:
    """Each function in the chains of docs/architecture.md is defined in the file named behind it."""
    text = document("docs/architecture.md").partition("## The way of one command")[2].partition("\n## ")[0]
    chains = re.findall(r"((?:`[\w.]+`(?:, (?:[a-z ]+)?)?)+) \(`([\w/]+\.py)`\)", text)
    named = [(file, name) for names, file in chains for name in re.findall(r"`([\w.]+)`", names)]
    assert len(named) >= 30
    assert [(file, name) for file, name in named if name not in functions_in(ROOT / file)] == []


# Methods of documented classes that only perdure's own parts call.
INTERNAL = {
    "perdure.State": {
        *(
            "accept_pair",
            "begin",
            "concerns",
            "end",
            "heard",
            "inside",
            "instance_gone",
            "kept",
            "sweep",
            "used_ms",
        ),
    },
    "perdure.Request": {"of"},
    "perdure.objects.websocket_pair.ServerEnd": {"bind", "dispatch"},
}
# Methods that the page names in its text, or that a base class documents.
NAMED_ELSEWHERE = {
    "perdure.State": {"get_websockets"},
    "perdure.api.client.answers.ClientResponse": {"upgrade"},
    "perdure.objects.http.FetchedResponse": {"upgrade"},
    "perdure.objects.durable.Binding": {"get_by_name", "id_from_string"},
    "perdure.objects.http.Headers": {"get", "items", "keys", "values"},
    "perdure.objects.websocket_pair.ServerEnd": {
        *("close", "deserialize_attachment", "send", "serialize_attachment", "tags"),
    },
}


def test_the_reference_has_every_public_method() -> None:
    """The `members:` of a class, on all pages together, name its public methods and properties."""
    documented: dict[str, set[str]] = {}
    for path in sorted((ROOT / "docs/reference").glob("*.md")):
        text = path.read_text()
        lists = re.findall(r"^::: (\S+)\n(?:    .*\n)*?      members: \[(.*)\]", text, re.MULTILINE)
        for name, members in lists + re.findall(r"^::: (perdure\.State)\.(\w+)$", text, re.MULTILINE):
            documented.setdefault(name, set()).update(members.split(", "))
    assert len(documented) >= 15
    for name, listed in documented.items():
        module, _, cls = name.rpartition(".")
        kind = getattr(importlib.import_module(module), cls)
        methods = {
            each
            for each in dir(kind)
            if not each.startswith("_")
            and isinstance(inspect.getattr_static(kind, each), FunctionType | property | classmethod)
        }
        assert listed <= set(dir(kind)), name
        assert methods - listed == INTERNAL.get(name, set()) | NAMED_ELSEWHERE.get(name, set()), name


def test_the_reference_has_every_setting_and_its_example_is_one() -> None:
    """Its tables have each key of a configuration, and the TOML above them can be used."""
    tables = {"limits": Limits, "kafka": Kafka}
    names = Config.model_fields.keys() - tables.keys()
    names |= {f"{table}.{name}" for table, section in tables.items() for name in section.model_fields}
    text = document("docs/reference/configuration.md")
    assert first_cells(text).keys() == names
    example = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0]
    assert parse_config(example, "perdure.toml", env_name="production").name == "shop-production"


def code_with(name: str) -> dict[str, Any]:
    """What the code of the README that defines `name` defines, as it stands there."""
    blocks = re.findall(r"```python[^\n]*\n(.*?)```", document("README.md"), re.DOTALL)
    (code,) = [block for block in blocks if re.search(rf"^(class|async def) {name}\b", block, re.MULTILINE)]
    module: dict[str, Any] = {"__name__": f"readme_{name}"}
    exec(compile(code, "README.md", "exec"), module)  # noqa: S102 - our own text
    return module


def counter() -> type[DurableObject]:
    """The counter of the README."""
    made: type[DurableObject] = code_with("Counter")["Counter"]
    return made


def test_the_counter_of_the_readme_is_an_app() -> None:
    """A registry can be built from it, with its method to be called."""
    registry = Registry.build({"Counter": counter()}, Config())
    assert list(registry.types["Counter"].methods) == ["increment"]


def test_the_counter_of_the_readme_counts() -> None:
    """It runs: by one, by five, and not by zero."""

    async def told(harness: OneOwner) -> None:
        assert (await harness.call("a", "increment")).body == b'{"result":1}'
        assert (await harness.call("a", "increment", 5)).body == b'{"result":6}'
        refused: Reply = await harness.call("a", "increment", 0)
        assert refused.error == ErrorInfo("not-positive", "a counter only goes up")

    story(counter(), told)


def test_the_systems_name_tests_stories_and_examples_that_are_there() -> None:
    """docs/systems.md names each story and each example, and no test that does not exist."""
    text = document("docs/systems.md")
    there = set()
    for path in (ROOT / "tests").rglob("*.py"):
        there |= set(re.findall(r"^(?:async )?def (\w+)", path.read_text(), re.MULTILINE))
    assert set(re.findall(r"`(test_\w+)`", text)) <= there
    stories = "".join(document(f"tests/acceptance/{name}.py") for name in ("stories", "stories_live"))
    assert set(re.findall(r"story `(\w+)`", text)) == set(
        re.findall(r"^async def ([a-z]\w+)", stories, re.MULTILINE)
    )
    examples = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert set(re.findall(r"`(\w+\.py)`", text)) - {"stories_live.py"} == examples


def test_every_metric_is_described() -> None:
    """docs/metrics.md has each metric and no other; a void record in the journal is counted."""
    described = first_cells(document("docs/metrics.md")).keys()

    async def told(harness: OneOwner) -> None:
        reader = harness.owner.tables.reader
        harness.owner.tables.apply(reader.offset, encode_chained(NoOp(reader.epoch - 1, 0), NO_CHAIN)[0])
        gateway = Gateway(harness.log, node="n", deadline_s=1, clock_ms=harness.clock_ms)
        counts = SnapshotCounts(taken_ms=1, verified_ms=1, bytes=7)
        snapshots: Any = SimpleNamespace(counts_of=lambda _: counts, settings=SnapshotConfig(to="file:///x"))
        text = exposition([harness.owner], gateway, lambda: {200: 1}, snapshots)().decode()
        assert 'perdure_snapshot_bytes{partition="0"} 7.0' in text
        told = set(re.findall(r"^(perdure_\w+)", text, re.MULTILINE)) | {name for name, *_ in METRICS}
        assert told == {name for name in described if name.startswith("perdure_")}
        assert 'perdure_voids_total{partition="0"} 1.0' in text

    story(DurableObject, told, check=False, shared=True)


def pages() -> Iterator[tuple[str, str]]:
    """Each document that users read, and its text."""
    for path in sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]):
        yield path.relative_to(ROOT).as_posix(), path.read_text()


def test_code_stands_only_on_pages_that_are_worked_through() -> None:
    """What is Python or typed into a terminal runs in a test: of the guide, the
    recipes, the client, the README.
    """
    worked_through = ("README.md", "docs/async.md", "docs/client.md", "docs/guide/", "docs/recipes/")
    found = {name for name, text in pages() if re.search(r"^ *```(?:python|console)\b", text, re.MULTILINE)}
    assert {name for name in found if not name.startswith(worked_through)} == set()
    assert "docs/guide/tutorial.md" in found


def test_every_block_of_toml_is_a_configuration() -> None:
    """Each is taken, alone or behind those above it on its page."""
    count = 0
    for name, text in pages():
        above = ""
        for block in re.findall(r"^```toml[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if "--8<--" in block:
                continue
            count += 1
            try:
                parse_config(block, name, default_name="app")
            except errors.ConfigError:
                parse_config(above + block, name, default_name="app")
            above += block
    assert count >= 8


def test_the_links_of_the_readme_lead_somewhere() -> None:
    """Those of the pages mkdocs checks; the README is read where no site is built."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document("README.md"))
    assert len(links) >= 12
    assert [link for link in links if not (ROOT / link).is_file()] == []
