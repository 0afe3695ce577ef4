"""`perdure init`: a project to begin with, which runs and whose tests pass.

The files of the project are those in `templates/`; only `$name` and `$version` are filled in.

Laws
- A file that exists is never overwritten.
- Beside an `app.py` of the user's own, no file is made that describes or tests the counter.
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
_RENAMED = {"gitignore": ".gitignore"}  # under its real name tools would apply it to this repository
_IGNORED = {".git", ".venv", ".DS_Store"}
_APP = Path("app.py")
_OF_THE_APP = {Path("README.md"), Path("tests/test_app.py")}  # they are about the counter in it
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: `perdure init shop`")(init)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="NAME", help="The folder to make; its name becomes the app's.")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Work in a folder that is not empty, too; existing files stay.")
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
        raise ConfigError(f"{folder} is a file; name a folder that does not exist yet")
    there = sorted({each.name for each in folder.iterdir()} - _IGNORED) if folder.exists() else []
    if there and not force:
        raise ConfigError(
            f"{folder} is not empty ({', '.join(there[:3])}{', …' if len(there) > 3 else ''}); name a new folder, "
            "or add --force to create the missing files there"
        )
    words = {"name": name, "version": version("perdure")}
    try:
        project = {path: Template(text).substitute(words) for path, text in _templates()}
        if blocked := [path for path in project if _is_not_a_file(folder / path)]:
            raise ConfigError(
                f"{folder / blocked[0]} exists and is not a file; move it away, or name a new folder"
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
        result = {
            "app": name,
            "folder": str(folder.resolve()),
            "made": made,
            "left": left,
            "not_made": missing,
        }
        typer.echo(json.dumps(result, ensure_ascii=False))
    else:
        _print_next(folder, left, missing, own=own)


def _templates() -> Iterator[tuple[Path, str]]:
    """Each file of a project and its content."""

    def inside(folder: Traversable, where: Path) -> Iterator[tuple[Path, str]]:
        for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if each.is_dir():
                yield from inside(each, where / each.name)
            elif each.name.endswith(_SUFFIX):
                plain = each.name.removesuffix(_SUFFIX)
                yield where / _RENAMED.get(plain, plain), each.read_text(encoding="utf-8")

    yield from inside(files("perdure.api.cli") / "templates", Path())


def _is_not_a_file(path: Path) -> bool:
    return (path.exists() or path.is_symlink()) and not path.is_file()


def _is_other(file: Path, text: str) -> bool:
    return file.exists() and file.read_bytes() != text.encode()


def _write(file: Path, text: str) -> bool:
    """Make the file; False if it exists already."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        return False
    return True


def _print_next(folder: Path, left: list[str], missing: list[str], *, own: bool) -> None:
    if left:
        typer.echo(f"left unchanged: {', '.join(left)}")
    if missing:
        typer.echo(f"not made, because they describe the app.py of `perdure init`: {', '.join(missing)}")
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
