"""What the README says to install, to write and to type, done as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.integration.pages import terminal
from tests.process import Server, clean_environ, serve

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
UV = shutil.which("uv") or shutil.which("uv", path=f"{Path(sys.executable).parent}:{ROOT / '.venv' / 'bin'}")


def section(title: str) -> str:
    """The text under a heading."""
    matches = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## )", README, re.MULTILINE | re.DOTALL)
    assert matches is not None, title
    return matches[1]


def block(language: str, word: str) -> str:
    """The one block of this language, under Install, that holds the word."""
    matches = re.findall(rf"^```{language}\n(.*?)^```$", section("Install"), re.MULTILINE | re.DOTALL)
    (text,) = [each for each in matches if word in each]
    return str(text)


def test_the_example_does_what_it_says(tmp_path: Path) -> None:
    """It is written, typed, stopped with Ctrl-C and started again as the page shows."""
    with terminal(tmp_path, executed=True) as opened:
        assert opened.work_through(section("Thirty seconds")) == 7


def test_make_run_serves_the_examples() -> None:
    """What the first step types is a target, which serves that folder."""
    assert block("sh", "make run").startswith("make run ")
    printed = subprocess.run(["make", "-n", "run"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "perdure serve examples/ --data .perdure" in printed.stdout


def test_the_wheel_has_the_version_that_is_named() -> None:
    """And its extras are those there are."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(re.findall(r"perdure-([\d.]+)-py3", README)) == {project["version"]}
    assert set(re.findall(r"`\[(\w+)\]`", section("Install"))) == set(project["optional-dependencies"])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the steps under "From a wheel" were typed; it is the home, too."""
    if UV is None:
        pytest.fail("needs uv")
    home = tmp_path_factory.mktemp("home")
    checkout = home / "perdure"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in files.stdout.split("\0")[:-1]:
        if (ROOT / name).exists():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name, follow_symlinks=False)
    locked = [UV, "export", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes", "-q", "-o"]
    subprocess.run([*locked, str(home / "locked.txt")], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    environ = {
        **clean_environ(),
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{Path(UV).parent}:{os.environ['PATH']}",
        "PIP_CACHE_DIR": str(Path.home() / ".cache" / "pip"),
        "PIP_NO_COMPILE": "0",  # which means not to: most of what it installs is never imported here
        "PIP_CONSTRAINT": str(home / "locked.txt"),
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")),
    }
    typed = ["bash", "-ec", block("sh", "uv build")]
    done = subprocess.run(typed, cwd=checkout, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().rpartition("\n")[2].startswith("perdure 0.")
    return home


@pytest.mark.skipif(
    os.environ.get("PERDURE_REQUIRE_PIP") != "1",
    reason="pip takes 15 s of CPU for it: .ci/run sets PERDURE_REQUIRE_PIP=1; test_package.py has uv install the wheel",
)
def test_the_container_s_steps_serve_an_app(installed: Path, tmp_path: Path) -> None:
    """Each line of the Dockerfile, without a container: what is copied, installed
    and started, below another root.
    """
    root, context = tmp_path / "root", tmp_path / "context"
    shutil.copytree(installed / "perdure" / "dist", context / "dist")
    (context / "app.py").write_text(re.findall(r'title="app.py"\n(.*?)```', README, re.DOTALL)[0])
    path = f"{installed / 'shop/.venv/bin'}:{os.environ['PATH']}"
    environ = {**clean_environ(), "PATH": path, "PIP_NO_COMPILE": "0"}
    where = root
    for line in block("dockerfile", "FROM").splitlines():
        what, _, rest = line.partition(" ")
        if what == "WORKDIR":
            where = root / rest.lstrip("/")
            where.mkdir(parents=True)
        elif what == "COPY":
            source, target = rest.split()
            for file in context.glob(source):
                folder = root / target.lstrip("/") if target.startswith("/") else where / target
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder)
        elif what == "RUN":
            typed = ["bash", "-ec", rest.replace(" /tmp/", f" {root}/tmp/")]
            subprocess.run(typed, cwd=where, env=environ, check=True, stdout=subprocess.DEVNULL)
        elif what == "CMD":
            command = json.loads(rest)
        else:
            assert what in ("FROM", "VOLUME", "EXPOSE"), line
    command = [each.replace("/data", str(root / "data")).replace("0.0.0.0", "127.0.0.1") for each in command]
    with subprocess.Popen(
        [*command, "--port", "0", "--json"], cwd=where, env=environ, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            answer = httpx.post(f"{url}/rpc/Counter/alice/increment", json={"args": [2]})
            assert answer.json() == {"result": 2}
            server.send_signal(signal.SIGTERM)
            assert server.wait(40) == 0
        finally:
            server.kill()
    assert (root / "data" / "log").is_dir()


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What `make run` serves."""
    with serve(ROOT / "examples", tmp_path_factory.mktemp("data")) as server:
        yield server
        assert server.stop() == 0


def test_the_examples_have_a_worker_at_their_root(examples: Server) -> None:
    """It says what it answers, and answers that; the objects are open beside it."""
    root = httpx.get(examples.url)
    assert (root.status_code, "/users/alice" in root.text) == (404, True)
    assert httpx.get(f"{examples.url}/users/alice").json() == {"user": "alice", "visits": 1, "rooms": []}
    assert httpx.get(f"{examples.url}/rooms/lobby/alice").json() == {"inside": 1}
    assert httpx.post(f"{examples.url}/objects/Counter/alice").json() == {"count": 1}
