"""The views of partitions, wherever they are served: here directly, elsewhere by a command to the owner.

A request for a view of a partition that another node serves becomes a sealed command in that partition, as
an act of administration does, and its owner answers it. So nodes need no way to each other but the log.

Laws [test_views_elsewhere.py]
- A view is made by the partition's owner, with the same facts, pages and errors as on its own node.
- A request is consumed where it lies: it is never passed on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from perdure.api.admin import views
from perdure.api.admin.command_views import CommandViews
from perdure.api.admin.views import Query
from perdure.api.gateway import Gateway
from perdure.api.pages import Refused
from perdure.api.problems import problem_of_reply
from perdure.api.replies import ReplyFuture
from perdure.objects.registry import Registry
from perdure.schemas.admin import VIEW, ViewRequest
from perdure.schemas.errors import MalformedCommand, PerdureError, Unavailable
from perdure.schemas.keys import key_in, partition_of
from perdure.streams.log.base import Topic
from perdure.streams.owner.owner import Owner
from perdure.streams.turns.ports import OwnerState

PROGRESS_S = 2.0  # for the figures of a partition elsewhere, in the table of all
View = Callable[[Owner, ViewRequest], Awaitable[Any]]


async def _progress(owner: Owner, request: ViewRequest) -> Any:
    return views.progress(owner, (await owner.log.bounds(Topic.COMMANDS, owner.partition)).end)


def _views(commands: CommandViews) -> Mapping[str, View]:
    return {
        "summary": lambda owner, of: views.summary(owner, of.key),
        "state": lambda owner, of: views.state(owner, of.key, of.query),
        "alarms": lambda owner, of: views.alarms(owner, of.key),
        "sockets": lambda owner, of: views.sockets(owner, of.key),
        "turns": lambda owner, of: views.turns(owner, of.key, of.query),
        "names": lambda owner, of: views.names(owner, of.query.get("namespace", ""), of.query),
        "parked": lambda owner, of: views.parked(owner, of.query),
        "parked-key": lambda owner, of: views.parked_key(owner, of.query.get("place", "")),
        "progress": _progress,
        "command": lambda owner, of: commands.status(owner, of.query.get("id", "")),
    }


class PartitionViews:
    """The views of all partitions of the app.

    Args:
        gateway: appends the requests to other nodes.
        owners: this node's owner of each partition, in order; they answer the requests of other nodes.
        registry: the app's classes.
    """

    def __init__(self, gateway: Gateway, owners: Sequence[Owner], registry: Registry) -> None:
        self._gateway = gateway
        self._owners = owners
        self._registry = registry
        self._views = _views(CommandViews(owners))
        for owner in owners:
            owner.admin.show = partial(self._answer, owner)

    @property
    def partitions(self) -> int:
        """The number of partitions."""
        return len(self._owners)

    def elsewhere(self, partition: int) -> bool:
        """True if another node serves the partition, or is about to."""
        owner = self._owners[partition]
        moving = owner.whereabouts.remote and owner.state is not OwnerState.SERVING
        return moving or owner.state is OwnerState.ELSEWHERE

    async def of_object(self, key: str, view: str, query: Query | None = None) -> Any:
        """A view of one object."""
        return await self.of(partition_of(key, self.partitions), view, query, key)

    async def of(self, partition: int, view: str, query: Query | None = None, key: str = "") -> Any:
        """A view of one partition.

        Args:
            partition: its number.
            view: the name of the view.
            query: the fields of its query.
            key: the object, for a view of one.

        Raises what making it raises, or `Refused` with another node's refusal.
        """
        request = ViewRequest(view, key, dict(query or {}))
        if self.elsewhere(partition):
            return await self._ask(partition, request)
        return await self._make(self._owners[partition], request)

    async def of_all(self, view: str, query: Query | None = None) -> list[Any]:
        """A view of each partition, in order."""
        return list(await asyncio.gather(*(self.of(each, view, query) for each in range(self.partitions))))

    async def table(self) -> dict[str, Any]:
        """The state of each partition on this node, and how far its owner is; bytes per topic."""
        rows = await asyncio.gather(*map(self._row, self._owners))
        sizes = await self._owners[0].log.sizes()
        return {"partitions": rows, "bytes": {topic.value: size for topic, size in sizes.items()}}

    async def _row(self, owner: Owner) -> dict[str, Any]:
        row = await views.partition(owner)
        if self.elsewhere(owner.partition):
            try:
                async with asyncio.timeout(PROGRESS_S):
                    row |= await self.of(owner.partition, "progress")
            except (PerdureError, Refused, TimeoutError):
                row["stale"] = True  # the figures are those of this node's store
        return row

    async def _make(self, owner: Owner, request: ViewRequest) -> Any:
        view = self._views.get(request.view)
        if view is None:
            raise MalformedCommand(f"this version of perdure has no view {request.view[:40]!r}")
        return await view(owner, request)

    async def _answer(self, owner: Owner, request: ViewRequest) -> bytes:
        """Answer another node."""
        return json.dumps(await self._make(owner, request), ensure_ascii=False).encode()

    async def _ask(self, partition: int, request: ViewRequest) -> Any:
        """Have the owner, on another node, make the view."""
        reply_future = ReplyFuture()
        namespace = min(self._registry.types, default=None)
        if namespace is None:
            raise Unavailable(f"partition {partition} is served by another node: ask that one")
        key = request.key or key_in(partition, namespace, self.partitions)
        self._gateway.administer(reply_future, key, VIEW, msgspec.json.encode(request), "")
        reply = (await reply_future.future).reply
        if reply.error is not None:
            raise Refused(problem_of_reply(reply.outcome, reply.error))
        return json.loads(reply.body)
