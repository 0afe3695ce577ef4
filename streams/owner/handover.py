"""The hand-over of a partition: its owner lets go of it, so that a warm successor can claim it at once.

    stop taking commands -> running turns end -> their output arrives -> the last batch says that the stop was
    clean -> the epoch ends

Laws [test_placement.py]
- Commands that were taken and have not run are dropped here and taken by the successor, which reads the log
  from the watermark on. So is a turn that does not end in time: it has left no trace.
- Nothing is let go of before the last batch is durable: what a successor emits again is what did not arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from perdure.streams import failpoints
from perdure.streams.owner.owner import Owner
from perdure.streams.turns.ports import OwnerState

PATIENCE_S = 1.0  # for turns that run
DRAIN_S = 5.0  # for turns that run when the node stops; requests have ended by then
LAST_BATCH_S = 5.0


async def hand_over(owner: Owner, patience_s: float = PATIENCE_S) -> bool:
    """Let go of a partition that is served; False if its epoch ended otherwise meanwhile."""
    epoch = owner.tables.reader.epoch
    owner.whereabouts.remote = True
    owner.stop_taking()

    def ours() -> bool:
        return owner.state is OwnerState.SERVING and owner.tables.reader.epoch == epoch

    await _until(lambda: not ours() or (owner.idle and owner.output.idle), patience_s)
    failpoints.hit("handover.before_sign_off")
    if ours():
        owner.journal.sign_off()
        await _until(lambda: not ours() or owner.journal.idle, LAST_BATCH_S)
    if not ours():
        return False
    failpoints.hit("handover.signed_off")
    owner.end_epoch()
    owner.enter(OwnerState.ELSEWHERE)
    return True


async def end_turns(owners: Iterable[Owner]) -> None:
    """Let the running turns of a node that stops end, and sign off, so that the next start is quick."""
    serving = [owner for owner in owners if owner.state is OwnerState.SERVING]
    for owner in serving:
        owner.alarms.end()  # an alarm that becomes due now runs after the next start

    def idle() -> bool:
        return all(owner.idle or owner.state is not OwnerState.SERVING for owner in serving)

    await _until(idle, DRAIN_S)  # a turn that does not end runs again at the next start, as after a crash
    if idle():
        for owner in serving:
            if owner.state is OwnerState.SERVING:
                owner.journal.sign_off()
        await _until(idle, DRAIN_S)


async def _until(condition: Callable[[], bool], patience_s: float) -> None:
    try:
        async with asyncio.timeout(patience_s):
            while not condition():  # noqa: ASYNC110 - there is no event for "the owner is idle"
                await asyncio.sleep(0.005)
    except TimeoutError:
        return
