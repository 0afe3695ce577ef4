"""The coordinator: the groups of this log, and what they have committed."""

from __future__ import annotations

import asyncio

from perdure.streams.wire.errors import Code, RequestRefused
from perdure.streams.wire.groups.group import Group
from perdure.streams.wire.groups.offsets import Offsets

MAX_GROUPS = 1_000


class Coordinator:
    """All groups. A group without members that has committed nothing is forgotten."""

    def __init__(self, loop: asyncio.AbstractEventLoop, offsets: Offsets) -> None:
        self.groups: dict[str, Group] = {}
        self.offsets = offsets
        self._loop = loop

    def group(self, name: str) -> Group | None:
        """A group that has, or had, members."""
        return self.groups.get(name)

    def joined(self, name: str) -> Group:
        """The group that a member joins. Raises `RequestRefused`."""
        if not name:
            raise RequestRefused(Code.INVALID_GROUP_ID, "a group has a name")
        group = self.groups.get(name)
        if group is None:
            self.forget_idle()
            if len(self.groups) >= MAX_GROUPS:
                raise RequestRefused(Code.GROUP_MAX_SIZE_REACHED, f"there are {MAX_GROUPS} groups")
            group = self.groups[name] = Group(name, self._loop)
        return group

    def forget_idle(self) -> None:
        """Forget groups without members."""
        for name in [name for name, group in self.groups.items() if group.idle]:
            self.groups.pop(name).close()

    def names(self) -> list[str]:
        return [*self.groups, *(name for name in self.offsets.groups if name not in self.groups)]

    def close(self) -> None:
        for group in self.groups.values():
            group.close()
