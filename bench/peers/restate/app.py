# mypy: ignore-errors
# The Restate SDK lives in an environment of its own, where this file runs: `hypercorn app:app`.
"""The counter as a Restate virtual object: `add` is exclusive, `get` is shared."""

import restate
from restate import ObjectContext, ObjectSharedContext, VirtualObject

counter = VirtualObject("Counter")


@counter.handler()
async def add(ctx: ObjectContext) -> int:
    count = (await ctx.get("count") or 0) + 1
    ctx.set("count", count)
    return count


@counter.handler(kind="shared")
async def get(ctx: ObjectSharedContext) -> int:
    return await ctx.get("count") or 0


app = restate.app([counter])
