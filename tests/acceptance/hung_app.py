"""A counter on a disk whose fsyncs hang from the moment at which the file `hang` lies beside the app."""

import math
import os
import threading
from pathlib import Path

from perdure import DurableObject
from perdure.streams import failpoints
from perdure.streams.log.embedded import fsync

_FLAG = Path(__file__).with_name("hang")
fsync.QUICK_S = math.inf if os.environ["FSYNC_WHERE"] == "loop" else 0.0


def _hang(name: str) -> None:
    if name == "log.after_sync" and _FLAG.exists():
        threading.Event().wait()


failpoints.on_hit(_hang)


class Counter(DurableObject):
    async def increment(self) -> int:
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count
