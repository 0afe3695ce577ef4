"""What a server of the examples says of itself is true: schemathesis asks
everything in its document, and malformed things.

Each operation is asked with requests that its description allows and with such that it does not. No answer is
a 5xx, each is described with its status, type and schema, and what fits is accepted. Left out of
schemathesis' checks:

- that all else is refused: arguments are read leniently, as pydantic does, and objects take whatever comes.
  That a name that is not canonical is refused, and a right that is not brought, is checked.
- what a description cannot say: an idempotency key that was used for another
  request, what an object's fetch wants.
- the content type of a call's 200: it has no header that says it, and is read as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks
from tests.acceptance.harness import SOAK
from tests.process import Server, serve

from perdure.api.cli import main
from perdure.api.openapi.objects import METHODS
from perdure.api.openapi.parts import KEY_FORMAT, NAME_FORMAT
from perdure.schemas.errors import BadKey
from perdure.schemas.keys import object_key

EXAMPLES = Path(__file__).parents[2] / "examples"
TOKEN = "pdr_" + "A" * 43
_ALL = ["call:*", "read:*", "subscribe:*", "admin"]
GUARD = (
    f'[[tokens]]\nname = "all"\nsha256 = "{hashlib.sha256(TOKEN.encode()).hexdigest()}"\nscopes = {_ALL}\n'
)
_LENIENT = [checks.negative_data_rejection]
# of each operation so many requests, and of each way to ask an object's fetch
TIMES, FETCHES = (200, 42) if SOAK else (8, 1)
VERBS = METHODS if SOAK else ("post",)


def is_name(text: str) -> bool:
    try:
        object_key("N", text)
    except BadKey:
        return False
    return True


NAMES = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="/"), min_size=1, max_size=100
).filter(is_name)
schemathesis.openapi.format(NAME_FORMAT, NAMES)
schemathesis.openapi.format(KEY_FORMAT, NAMES.map("Counter/{}".format))


@pytest.fixture(scope="module", params=["open", "guarded"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Path]]:
    """At the end it is ready, stops in order and has no fault of its own to tell."""
    folder = tmp_path_factory.mktemp("openapi")
    app = Path(shutil.copytree(EXAMPLES, folder / "app", ignore=shutil.ignore_patterns("__pycache__")))
    if request.param == "guarded":
        toml = app / "perdure.toml"
        toml.write_text(toml.read_text() + GUARD)
    with serve(app, folder / "data") as server:
        yield server, app
        assert requests.get(f"{server.url}/readyz", timeout=30).status_code == 200
        assert server.stop() == 0
        assert "Traceback" not in server.stderr()


class Asking:
    """Requests made of a server's document, as far as it is of objects below
    `of_objects`, and what was answered.
    """

    def __init__(self, server: Server, of_objects: str) -> None:
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {TOKEN}"
        self.url = server.url
        document = self.session.get(f"{server.url}/openapi.json", timeout=30).json()
        paths = document["paths"]
        for path in [each for each in paths if each.startswith("/objects/")]:
            if path.startswith(of_objects):
                paths[path] = {
                    key: each for key, each in paths[path].items() if key not in METHODS or key in VERBS
                }
            else:
                del paths[path]
        self.operations = [
            each.ok() for each in schemathesis.openapi.from_dict(document).get_all_operations()
        ]
        self.answered: Counter[tuple[str, int]] = Counter()
        self.wrong: set[str] = set()

    def all(self, operation: Any, times: int) -> None:
        """So many requests of an operation, each second one malformed where there
        is anything to be malformed.
        """
        modes = [GenerationMode.POSITIVE]
        if operation.path_parameters or operation.headers or operation.query or operation.body:
            modes.append(GenerationMode.NEGATIVE)
        for mode in modes:

            @settings(
                max_examples=-(-times // len(modes)),
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(operation.as_strategy(generation_mode=mode))
            def one(case: Any) -> None:
                self.one(case)

            one()

    def one(self, case: Any) -> None:
        response = case.call(base_url=self.url, session=self.session, timeout=30)
        self.answered[case.operation.label, response.status_code] += 1
        excluded = list(_LENIENT)
        if case.path.startswith("/objects/") or b"urn:perdure:problem:key-reused" in response.content:
            excluded.append(checks.positive_data_acceptance)
        if case.path.startswith("/rpc/") and response.status_code == 200:
            assert "content-type" not in response.headers
            response.headers["content-type"] = ["application/json"]  # read as what it is
        try:
            case.validate_response(response, excluded_checks=excluded)
        except FailureGroup as group:
            key = (case.headers or {}).get("Idempotency-Key")  # which the command line leaves out
            answered = f"{response.status_code} {response.content[:500]!r} to the key {key!r}"
            self.wrong |= {
                f"{case.operation.label}: {each.title}: {each.message[:2000]}\n{answered}\n{case.as_curl_command()}"
                for each in group.exceptions
            }
        name = unquote(str(case.path_parameters.get("name", "a")))
        if not is_name(name) and not 400 <= response.status_code < 500:
            self.wrong.add(f"{case.operation.label}: {name!r} named an object: {response.status_code}")


def misfit(operation: Any) -> Any:
    """A call that is one, with an argument that does not fit."""
    body = {"args": ["a", "no number"], "kwargs": {}}
    return operation.Case(path_parameters={"name": "a"}, body=body, media_type="application/json")


def test_the_document_is_true(served: tuple[Server, Path]) -> None:
    """All that it describes is asked, and what it does not allow: nothing is
    answered but what is described.
    """
    server, app = served
    guarded = "tokens" in (app / "perdure.toml").read_text()
    asking = Asking(server, "/objects/Counter/" if guarded else "/objects/")
    for operation in asking.operations:
        asking.all(operation, FETCHES if operation.path.startswith("/objects/") else TIMES)
        if operation.label == "POST /rpc/Ledger/{name}/deposit":
            asking.one(misfit(operation))  # what is drawn depends on what else the process has loaded
    assert sorted(asking.wrong) == []
    assert {label for label, _ in asking.answered} == {each.label for each in asking.operations}
    assert asking.answered.total() > (10_000 if SOAK and not guarded else 100)
    assert {status for _, status in asking.answered} >= {200, 400, 422} | ({401} if guarded else set())


@pytest.mark.parametrize("which", ["openapi", "asyncapi"])
def test_the_command_line_says_the_same(
    served: tuple[Server, Path], capfd: pytest.CaptureFixture[str], which: str
) -> None:
    """`perdure openapi` and `perdure asyncapi`, from the app's files."""
    server, app = served
    with pytest.raises(SystemExit):
        main([which, str(app)])
    asked = requests.get(
        f"{server.url}/{which}.json", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
    )
    assert asked.headers["content-type"] == "application/json"
    assert json.loads(capfd.readouterr().out) == asked.json()


def test_the_lines_to_copy_work(served: tuple[Server, Path]) -> None:
    """Those of /docs, typed into a shell with a name in place of NAME."""
    server, _ = served
    asked = requests.get(f"{server.url}/docs", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
    assert "script" not in asked.headers["content-security-policy"]
    lines = [unescape(each) for each in re.findall(r"<pre>(curl .*?)</pre>", asked.text, re.DOTALL)]
    for path, answered in (
        ("/rpc/Ledger/NAME/deposit", {"result": 1}),
        ("/objects/Counter/NAME", {"count": 1}),
        ("/readyz", {"status": "ready", "partitions": []}),
    ):
        (line,) = [each for each in lines if f'"$PERDURE{path}"' in each]
        environ = {**os.environ, "PERDURE": server.url, "TOKEN": TOKEN}
        line = line.replace("NAME", "copied")
        done = subprocess.run(["sh", "-c", line], env=environ, capture_output=True, check=True, timeout=60)
        assert json.loads(done.stdout) == answered
