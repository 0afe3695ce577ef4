"""The table `[projections]` of a configuration: which of perdure's own are used, and which process folds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from perdure.schemas.section import Section


class ProjectionConfig(Section):
    """The table `[projections]`."""

    use: Annotated[tuple[str, ...], Field(strict=False)] = ()  # a TOML array is a list
    """Projections that perdure brings: `activity`, `changes`."""
    beside: bool = True
    """True: `perdure serve` starts a process that folds, beside its own. False: `perdure project` does."""
