"""What is shipped: the wheel and the sdist, and that an installed wheel serves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import httpx
import pytest
from tests.process import clean_environ

ROOT = Path(__file__).parents[2]
# `make` installs uv beside the project's own packages where there is none
UV = shutil.which("uv") or shutil.which("uv", path=f"{Path(sys.executable).parent}:{ROOT / '.venv' / 'bin'}")
ROOMS = ("schemas", "objects", "streams", "api")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, which is built from the sdist, and the sdist."""
    out = tmp_path_factory.mktemp("dist")
    build = [UV, "build", "--out-dir"] if UV else [sys.executable, "-m", "build", "--outdir"]
    done = subprocess.run([*build, str(out), str(ROOT)], capture_output=True, text=True, check=False)
    if done.returncode != 0 and any(word in done.stderr for word in ("error sending request", "dns error")):
        pytest.skip("the build backend is neither in the cache nor to be had: no network")
    assert done.returncode == 0, done.stderr + done.stdout
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a fresh environment: the wheel, its dependencies at their locked versions, and pytest."""
    wheel, folder = built[0], tmp_path_factory.mktemp("installed") / "venv"
    if UV is None:
        pytest.skip("needs uv, which fills an environment from its cache in a second")
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    locked = folder.with_name("locked.txt")
    export = [
        UV,
        "export",
        "--frozen",
        "--no-dev",
        "--no-emit-project",
        "--no-hashes",
        "-q",
        "-o",
        str(locked),
    ]
    for command in (
        [UV, "venv", "-q", "--python", sys.executable, str(folder)],
        [*export, "--project", str(ROOT)],
        [UV, "pip", "install", "-q", "--python", str(python), "-r", str(locked), str(wheel), "pytest"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 and any(
            word in done.stderr for word in ("error sending request", "dns error")
        ):
            pytest.skip("a dependency is neither in the cache nor to be had: no network")
        assert done.returncode == 0, done.stderr
    return python


def test_the_wheel_holds_the_rooms_and_the_types(built: tuple[Path, Path]) -> None:
    """Each module of each room is in the wheel under `perdure`, with `py.typed` and
    what `init` makes, and nothing else.
    """
    with zipfile.ZipFile(built[0]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {"perdure/__init__.py", "perdure/audit.py", "perdure/py.typed", "perdure/testing.py"}
    for room in ROOMS:
        expected |= {f"perdure/{path.relative_to(ROOT)}" for path in (ROOT / room).rglob("*.py")}
    templates = {f"perdure/{path.relative_to(ROOT)}" for path in (ROOT / "api").rglob("*.tmpl")}
    assert len(templates) == 6
    expected |= templates
    expected |= {
        f"perdure/{path.relative_to(ROOT)}" for path in (ROOT / "api" / "console" / "templates").iterdir()
    }
    assert held == expected


def test_the_image_of_compose_is_built_from_what_its_context_holds(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    """Without what Dockerfile.dockerignore leaves out, `pip install .` makes the same wheel."""
    if UV is None:
        pytest.skip("needs uv")
    text = (ROOT / "compose" / "Dockerfile").read_text()
    assert re.findall(r"pip install --no-cache-dir (\S+)", text) == ['".[kafka,snapshots]"']
    left_out = (ROOT / "compose" / "Dockerfile.dockerignore").read_text().split()
    assert left_out == ["**/.*", "**/__pycache__", "dist", "build"]
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in files.stdout.split("\0")[:-1]:
        if (ROOT / name).exists() and not any(part.startswith(".") for part in Path(name).parts):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name, follow_symlinks=False)
    made = subprocess.run(
        [UV, "build", "--wheel", "--out-dir", str(tmp_path / "dist")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as mine, zipfile.ZipFile(built[0]) as theirs:
        assert sorted(mine.namelist()) == sorted(theirs.namelist())


def test_the_sdist_holds_what_the_wheel_is_made_of(built: tuple[Path, Path]) -> None:
    """Rooms as folders (no links, which not every system unpacks), tests, examples, licence."""
    with tarfile.open(built[1]) as sdist:
        held = {member.name.partition("/")[2] for member in sdist if member.isfile()}
        assert not [member.name for member in sdist if member.issym()]
    for name in (*(f"{room}/__init__.py" for room in ROOMS), "src/perdure/py.typed", "LICENSE", "README.md"):
        assert name in held
    assert "examples/counter.py" in held
    assert "tests/integration/test_package.py" in held


def test_an_installed_wheel_serves(installed: Path, tmp_path: Path) -> None:
    """In an environment without the repository, `perdure` serves an example from another folder."""
    python, perdure = installed, installed.with_name("perdure")
    version = subprocess.run([perdure, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert version.stdout.startswith("perdure 0.")
    where = [python, "-c", "import perdure; print(perdure.__file__)"]
    file = subprocess.run(where, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert file.startswith(str(python.parents[1]))

    shutil.copy(ROOT / "examples" / "counter.py", tmp_path)
    with subprocess.Popen(
        [perdure, "serve", "counter.py", "--port", "0", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environ(),
    ) as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            assert httpx.post(f"{url}/objects/Counter/a").json() == {"count": 1}
            server.send_signal(signal.SIGTERM)
            assert server.wait(40) == 0
        finally:
            server.kill()
    assert (tmp_path / ".perdure").is_dir()


def test_a_project_that_the_wheel_makes_runs_and_passes_its_tests(installed: Path, tmp_path: Path) -> None:
    """`perdure init`, its tests, its server, a call: with the wheel and pytest alone, as a beginner."""
    python, perdure, project = installed, installed.with_name("perdure"), tmp_path / "my-shop"
    subprocess.run([perdure, "init", "my-shop"], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    tested = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        env=clean_environ(),
    )
    assert "2 passed" in tested.stdout, tested.stdout + tested.stderr
    with subprocess.Popen(
        [perdure, "dev", "--port", "0"], cwd=project, stdout=subprocess.PIPE, text=True, env=clean_environ()
    ) as server:
        try:
            assert server.stdout is not None
            ready = server.stdout.readline()
            assert ready.startswith("my-shop is ready at http://127.0.0.1:"), ready
            command = [perdure, "call", "Counter/alice", "increment", "2", "--url", ready.split()[4]]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environ())
            assert done.stdout == "2\n"
            server.send_signal(signal.SIGINT)
            assert server.wait(40) == 0
        finally:
            server.kill()
