"""Migrations: the steps in the history of an app's namespaces, as the journal records them.

Laws
- A step is named by its tag, and its tag is journaled once. The configuration's steps are those of the
  journal, in their order and unchanged, and may go on from there: anything else is a `ConfigError` that names
  the tag.
- Two steps are the same if they have the same effect: `new_classes` and `new_sqlite_classes` are equal here.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from perdure.schemas.errors import ConfigError

_MOVED = "@rescaled:"  # what the tag of a rescale's step begins with


class Step(msgspec.Struct, array_like=True, frozen=True):
    """One migration. `created` and `renamed`: (namespace, its class from here on); `deleted`: namespaces.

    `transferred`: (namespace, its class, the app it comes from).
    """

    tag: str
    created: tuple[tuple[str, str], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    deleted: tuple[str, ...] = ()
    transferred: tuple[tuple[str, str, str], ...] = ()


def moved(base: str, partitions: int) -> Step:
    """The step that a rescale ends a journal with: the app goes on in topics whose names begin with
    `base`."""
    return Step(f"{_MOVED}{partitions}:{base}")


def moved_to(step: Step) -> tuple[int, str] | None:
    """The number of partitions that a rescale gave the app, and how its topics' names begin; None: another
    step."""
    if not step.tag.startswith(_MOVED):
        return None
    partitions, _, base = step.tag.removeprefix(_MOVED).partition(":")
    return int(partitions), base


def missing(journaled: Sequence[Step], configured: Sequence[Step]) -> Sequence[Step]:
    """The configured steps that are not journaled yet.

    Raises `ConfigError` if they do not follow from those that are.
    """
    remedy = "restore it as it was: a migration that has run is never edited, removed or moved; add another"
    for at, step in enumerate(journaled):
        if at < len(configured) and configured[at] == step:
            continue
        if (to := moved_to(step)) is not None:
            raise ConfigError(
                f"a rescale of this app to {to[0]} partitions, on the topics {to[1]}.*, was begun and not finished: run "
                f"perdure rescale --partitions {to[0]} again"
            )
        tags = [each.tag for each in configured]
        if step.tag not in tags:
            raise ConfigError(
                f'migration "{step.tag}" has run but is no longer in the configuration; {remedy}'
            )
        if tags.index(step.tag) == at:
            raise ConfigError(
                f'migration "{step.tag}" has run as {_described(step)}, and the configuration now has '
                f"{_described(configured[at])}; {remedy}"
            )
        there = f'"{tags[at]}"' if at < len(tags) else "none"
        raise ConfigError(
            f'migration "{step.tag}" has run as number {at + 1}, and the configuration has {there} there; '
            f"{remedy} at the end"
        )
    return configured[len(journaled) :]


def _described(step: Step) -> str:
    """What a step does, in a few words."""
    words = [f"creates {_bound(*each)}" for each in step.created]
    words += [f"takes over {_bound(*each[:2])} from {each[2]}" for each in step.transferred]
    words += [f"gives {namespace} the class {name}" for namespace, name in step.renamed]
    words += [f"deletes {namespace}" for namespace in step.deleted]
    return "(" + (", ".join(words) or "nothing") + ")"


def _bound(namespace: str, class_name: str) -> str:
    return namespace if namespace == class_name else f"{namespace} (class {class_name})"
