"""Options that several commands share: which app, where its data is, on which log, in which environment.

A command that takes all options of a group has one parameter for them, such as `data: AppData`, and is
registered as `with_groups(command)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

if TYPE_CHECKING:
    from perdure.schemas.config import Config

PathArgument = Annotated[Path, typer.Argument(help="The app: a file or a folder.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the log and the state. [default: .perdure beside the app]"),
]
Log = Annotated[str | None, typer.Option("--log", help="embedded, or kafka://host:port[,host:port].")]
EnvName = Annotated[str | None, typer.Option("--env", help="Environment: [env.NAME] of the configuration.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
AlwaysJson = Annotated[bool, typer.Option("--json", help="Accepted for symmetry: the output is always JSON.")]


class AppData(NamedTuple):
    """The options of a command that works on an app's data, without a running server."""

    path: PathArgument = Path()
    data: Data = None
    log: Log = None
    env: EnvName = None

    @property
    def config(self) -> Config:
        """The configuration of the app at `path` by these options. Raises `ConfigError`."""
        from perdure.api.loading import load_config

        flags = {"data_dir": self.data, "log": self.log}
        return load_config(self.path, env_name=self.env, environ=os.environ, flags=flags, opens_data=True)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer has to see it: each parameter that is a group of options (a NamedTuple of them) is
    replaced by these, behind the command's own options.
    """
    own: list[Parameter] = []
    shared: list[Parameter] = []
    groups: dict[str, Any] = {}
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in signature(command).parameters.items():
        if isinstance(hints[name], type) and issubclass(hints[name], tuple):
            groups[name] = hints[name]
            shared += signature(hints[name]).parameters.values()
        else:
            own.append(parameter.replace(annotation=hints[name]))
    for group in groups.values():
        hints |= get_type_hints(group, include_extras=True)

    @wraps(command)
    def with_options(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(*(given.pop(option) for option in group._fields))
        command(**given)

    seen = [*own, *(each.replace(annotation=hints[each.name]) for each in shared)]
    seen = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in seen]
    with_options.__signature__ = Signature(seen)  # type: ignore[attr-defined]  # as inspect reads it
    with_options.__annotations__ = {each.name: each.annotation for each in seen}
    return with_options
