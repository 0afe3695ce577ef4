"""`perdure init`: a project to begin with, that runs and whose tests pass.

Laws
- A file that is there is never written over.
- With an `app.py` of somebody's own nothing is made or promised that is about the counter.
- What it makes stands in `templates/`: `$name` and `$version` are put in, nothing else.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from perdure.api.cli.options import AsJson
from perdure.schemas.errors import ConfigError, OperatorError

_SUFFIX = ".tmpl"
_RENAMED = {"gitignore": ".gitignore"}  # under its own name tools would obey it here
_NO_FILES_OF_A_PROJECT = {".git", ".venv", ".DS_Store"}
_APP = Path("app.py")
_OF_THE_APP = {Path("README.md"), Path("tests/test_app.py")}  # they speak of the counter that is in it
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `perdure init shop`")(init)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="NAME", help="The folder to make; its name is the app's.")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Also in a folder that is not empty; what is there stays.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a project with a counter, its configuration and its tests."""
    from importlib.metadata import version

    name = folder.resolve().name
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f'the name of the folder, "{name}", cannot name an app; use letters, digits, ".", "_" and "-", '
            "such as: my-shop"
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder that is not there yet")
    there = (
        sorted({each.name for each in folder.iterdir()} - _NO_FILES_OF_A_PROJECT) if folder.exists() else []
    )
    if there and not force:
        raise ConfigError(
            f"{folder} is not empty ({', '.join(there[:3])}{', …' if len(there) > 3 else ''}); name a new folder, "
            "or say --force to add what is missing there"
        )
    words = {"name": name, "version": version("perdure")}
    try:
        project = {path: Template(text).substitute(words) for path, text in _templates()}
        if no_file := [path for path in project if _is_no_file(folder / path)]:
            raise ConfigError(
                f"{folder / no_file[0]} is there and no file; move it away, or name a new folder"
            )
        own = _is_other(folder / _APP, project[_APP])
        left = [
            str(path)
            for path, text in project.items()
            if not (own and path in _OF_THE_APP) and not _write(folder / path, text)
        ]
    except OSError as error:
        raise OperatorError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    missing = [str(path) for path in sorted(_OF_THE_APP) if own and not (folder / path).exists()]
    if as_json:
        made = sorted({str(path) for path in project} - {*left, *missing})
        told = {"app": name, "folder": str(folder.resolve()), "made": made, "left": left, "not_made": missing}
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        _tell(folder, left, missing, own=own)


def _templates() -> Iterator[tuple[Path, str]]:
    """Each file of a project and what it holds."""

    def inside(folder: Traversable, where: Path) -> Iterator[tuple[Path, str]]:
        for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if each.is_dir():
                yield from inside(each, where / each.name)
            elif each.name.endswith(_SUFFIX):
                plain = each.name.removesuffix(_SUFFIX)
                yield where / _RENAMED.get(plain, plain), each.read_text(encoding="utf-8")

    yield from inside(files("perdure.api.cli") / "templates", Path())


def _is_no_file(path: Path) -> bool:
    return (path.exists() or path.is_symlink()) and not path.is_file()


def _is_other(file: Path, text: str) -> bool:
    return file.exists() and file.read_bytes() != text.encode()


def _write(file: Path, text: str) -> bool:
    """Make the file; False if it is there already."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        return False
    return True


def _tell(folder: Path, left: list[str], missing: list[str], *, own: bool) -> None:
    if left:
        typer.echo(f"left as they were: {', '.join(left)}")
    if missing:
        typer.echo(f"not made, as they are about the app.py of `perdure init`: {', '.join(missing)}")
    if own:
        typer.echo("The objects are those of your app.py. Next:\n")
    else:
        typer.echo(f"{folder.resolve().name} is ready. Next:\n")
    if folder.resolve() != Path.cwd():
        typer.echo(f"  cd {shlex.quote(str(folder))}")
    lines = (
        "perdure dev                            # http://127.0.0.1:8787; restarts when the code changes",
        "perdure call Counter/alice increment   # in another terminal",
        "pip install pytest && python -m pytest",
    )
    for line in lines[:1] if own else lines:
        typer.echo(f"  {line}")
