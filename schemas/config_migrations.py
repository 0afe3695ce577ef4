"""The table `[[migrations]]` of a configuration: the history of the app's namespaces, and what it leads to.

Law: a namespace is named once, by the migration that creates it; renaming its class does not rename it, and
its name is never given to another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from perdure.schemas.migrations import Step
from perdure.schemas.section import Section


def identifier(name: str) -> str:
    """The name, if it can be one of Python's. Raises `ValueError`."""
    if not name.isidentifier():
        raise ValueError(
            f'"{name}" cannot name a Python class or an attribute of env; use letters, digits and "_"'
        )
    return name


Identifier = Annotated[str, AfterValidator(identifier)]


class RenamedClass(Section):
    """A class that a migration renames: its namespace keeps its name."""

    source: Annotated[Identifier, Field(alias="from")]
    to: Identifier


class TransferredClass(Section):
    """A class that a migration takes over from another app, with its objects."""

    source: Annotated[Identifier, Field(alias="from")]
    from_script: str
    to: Identifier
    data: Annotated[Path, Field(strict=False)] | None = None
    """The other app's data directory, if its log is an embedded one; its class is copied from there."""


class MigrationConfig(Section):
    """One step in the history of the app's namespaces. Never edit one that has run; add another."""

    tag: Annotated[str, Field(min_length=1)]
    # strict=False: a TOML array is a list
    new_classes: Annotated[tuple[Identifier, ...], Field(strict=False)] = ()
    new_sqlite_classes: Annotated[tuple[Identifier, ...], Field(strict=False)] = ()
    renamed_classes: Annotated[tuple[RenamedClass, ...], Field(strict=False)] = ()
    deleted_classes: Annotated[tuple[Identifier, ...], Field(strict=False)] = ()
    transferred_classes: Annotated[tuple[TransferredClass, ...], Field(strict=False)] = ()

    @property
    def created(self) -> tuple[str, ...]:
        """Names of the classes this step makes out of nothing, each a namespace of that name."""
        return self.new_classes + self.new_sqlite_classes


def fold_migrations(migrations: tuple[MigrationConfig, ...], app: str = "") -> dict[str, str]:
    """Namespace → class name after all steps. Raises `ValueError` naming the tag that does not follow."""
    return _Namespaces(migrations, app).living


def migration_steps(migrations: tuple[MigrationConfig, ...], app: str = "") -> tuple[Step, ...]:
    """The step of each migration in the app of this name. Raises like `fold_migrations`."""
    return tuple(_Namespaces(migrations, app).steps)


Action = Literal["renames", "deletes"]


class _Namespaces:
    """The namespaces there are after some migrations, and what each step did to them."""

    def __init__(self, migrations: tuple[MigrationConfig, ...], app: str) -> None:
        self.living: dict[str, str] = {}
        self.steps: list[Step] = []
        self._ever: dict[str, str] = {}  # every namespace there has been → the tag that made it
        tags: set[str] = set()
        for step in migrations:
            if step.tag in tags:
                raise ValueError(
                    f'two migrations have the tag "{step.tag}"; each needs its own, such as "v2"'
                )
            tags.add(step.tag)
            self.steps.append(self._step(step, app))

    def _step(self, step: MigrationConfig, app: str) -> Step:
        tag = step.tag
        created = [self._create(tag, name) for name in step.created]
        foreign = [each for each in step.transferred_classes if each.from_script != app]
        transferred = [(*self._create(tag, each.to), each.from_script) for each in foreign]
        own = [each for each in step.transferred_classes if each.from_script == app]
        renamed = [self._rename(tag, each.source, each.to) for each in step.renamed_classes]
        renamed += [self._rename(tag, each.source, each.to) for each in own]
        deleted = []
        for name in step.deleted_classes:
            namespace = self._find(tag, "deletes", name)
            del self.living[namespace]
            deleted.append(namespace)
        return Step(tag, tuple(created), tuple(renamed), tuple(deleted), tuple(transferred))

    def _create(self, tag: str, name: str) -> tuple[str, str]:
        """A namespace that is called like its class."""
        if name in self._ever:
            raise ValueError(
                f'migration "{tag}" creates "{name}", but migration "{self._ever[name]}" created it already '
                "and its keys carry that name forever; give the new class another name"
            )
        if name in self.living.values():
            raise ValueError(f'migration "{tag}" makes "{name}", which exists already; use another name')
        self.living[name] = name
        self._ever[name] = tag
        return name, name

    def _rename(self, tag: str, source: str, to: str) -> tuple[str, str]:
        namespace = self._find(tag, "renames", source)
        if to in self.living.values():
            raise ValueError(f'migration "{tag}" renames "{source}" to "{to}", which exists')
        self.living[namespace] = to
        return namespace, to

    def _find(self, tag: str, action: Action, class_name: str) -> str:
        for namespace, current in self.living.items():
            if current == class_name:
                return namespace
        raise ValueError(
            f'migration "{tag}" {action} class "{class_name}", which does not exist at that point; '
            "an earlier migration must create it"
        )
