"""Random runs over log, journal, owner and store; what each checks stands in checker.py.

`PERDURE_SEEDS=first:count` chooses seeds, `PERDURE_SOAK=1` runs ten times as many.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing import get_context

import pytest
import structlog

from perdure.schemas.errors import PerdureError
from perdure.streams.state.fold import GC_THRESHOLD
from tests.simulation.bugs import BUGS, rings_of_earlier_copies_stay
from tests.simulation.faults_inside import EVERYWHERE
from tests.simulation.world import COMMANDS, Run

SEEDS = 2_000
SEEDS_TO_CATCH_A_BUG = 200
# the seed that caught a bug last is tried first; if it no longer does, only the time is lost
CAUGHT_LAST = {
    "copy_of_a_key_does_not_wait": 20,
    "forward_run_again": 21,
    "forward_that_changed_nothing_left_untraced": 21,
    "forward_lost": 21,
    "forwards_overtake": 72,
    "run_where_it_was_misplaced": 21,
    "refused_event_of_a_lost_socket_forgotten": 16,
    "claim_that_follows_nothing": 21,
    "not_done_told_at_once": 54,
    "alarm_of_any_setting": 5,
    "send_lost": 12,
    "calls_known_by_order": 12,
    "nested_calls_hang_on_their_own_place": 60,
    "reruns_not_compared": 7,
    "expired_value_seen": 50,
    "swept_though_put_again": 37,
    "frames_overtake": 161,
    "all_that_is_accepted_runs_at_once": 20,
    "frame_taken_twice": 4,
    "frame_named_by_its_reign": 4,
    "step_done_with_the_first_piece_of_a_deletion": 4,
    "evicted_with_writes_under_way": 6,
    "namespace_deleted_by_name_only": 22,
    "alarms_of_a_deleted_namespace_stay": 22,
    "what_a_cut_copy_left_stays": 28,
    "cut_copy_taken_for_whole": 28,
    "moved_into_each_partition": 28,
    "alarms_stay_as_a_wrong_clock_timed_them": 85,
}
CHUNK = 50
# what must have happened at least once over all runs, or they prove nothing
REQUIRED = (
    "crash at beginning",
    "crash at founding",
    "crash at a random moment with commands in flight",
    "crash at owner.before_turn",
    "crash at owner.before_store",
    "crash at owner.before_reply",
    "crash at store.before_write",
    "crash at store.after_write",
    "crash at store.after_flush",
    "store writes forgotten",
    "lost append",
    "lost journal",
    "never append",
    "never journal",
    "late append",
    "late journal",
    "slow append",
    "slow ack",
    "slow commit",
    "slow sync",
    "slow deliver",
    "slow read",
    "bursts",
    "stalls",
    "take-overs",
    "fenced",
    "told ask-again",
    "told expired",
    "told key-in-flight",
    "alarms ok",
    "alarms failed",
    "alarms for nothing",
    "paid by alarms",
    "runs of alarms that are to go on",
    "crash at alarm.after_a_call",
    "calls ok",
    "calls again",  # more than one record of one call: its caller or its answer was lost
    "calls withdrawn",
    "forged commands refused",
    "calls that are to go on",  # not done, though they had called others
    "spread ok",
    "fickle told that it ran differently",
    "crash at caller.after_a_line",
    "crash at caller.after_a_fickle_call",
    "calls that stand though their caller failed",
    "crash at caller.after_call_1",
    "crash at caller.after_call_2",
    "sends ok",
    "sends again",
    "leases seen",
    "leases hidden",
    "sweeps ok",
    "sweeps for nothing",
    "swept, and put again since",
    "frames",
    "frames let out again",
    "socket message ok",
    "socket message for nothing",
    "socket close ok",
    "socket close for nothing",
    "socket events lost",
    "sockets that were sent all",
    "settled",
    "evictions",
    "forwards",
    "forwards again",
    "forwards answered",
    "forwards not done",
    "jumps of the broker's clock",
    "steps back of all clocks",
    "alarms timed again",
    "cron alarms at their next time",
    "migrations",
    "for a deleted namespace",
    "deleted with their namespace",
    "objects moved in",
    "moved in by a copy that was cut short",
    "partitions stopped by a fault",
    *(f"fault where {step}" for step in EVERYWHERE),
    "crash at owner.moved_in",
    "crash at owner.before_migration",
    "crash at owner.after_migration",
)


def _seeds() -> range:
    first, _, count = os.environ.get("PERDURE_SEEDS", f"0:{SEEDS}").partition(":")
    times = 10 if os.environ.get("PERDURE_SOAK") == "1" else 1
    return range(int(first), int(first) + int(count or 1) * times)


def _run(seeds: Sequence[int]) -> Counter[str]:
    # what handlers raise on purpose is told by the product, a hundred thousand times
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.WARNING)
    try:
        return _counts(seeds)
    finally:
        structlog.reset_defaults()
        logging.disable(logging.NOTSET)


def _counts(seeds: Sequence[int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        run = Run(seed)
        happened = run.go()
        assert happened["commands"] >= COMMANDS, f"seed {seed}: {happened['commands']} commands"
        assert happened["crashes"] >= 2, f"seed {seed}: {happened['crashes']} crashes"
        assert run.auditor.claims >= 2, f"seed {seed}: {run.auditor.claims} owners"
        counts += happened
    return counts


def _only_compute() -> None:
    """Whatever else runs on the machine goes first, and garbage is collected as rarely as in a server."""
    os.nice(5)
    gc.set_threshold(*GC_THRESHOLD)


# it only computes, and lets everything else go first: on a busy machine that lasts, and ten times as many
# last longer
@pytest.mark.timeout(5000)
def test_every_invariant_holds_in_every_random_run(capsys: pytest.CaptureFixture[str]) -> None:
    """I1-I9 hold in each seed, and every kind of fault happened at every phase."""
    seeds = _seeds()
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    counts: Counter[str] = Counter()
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), _only_compute) as pool:
        for happened in pool.map(_run, chunks):
            counts += happened
    with capsys.disabled():
        summary = ", ".join(f"{name} {counts[name]}" for name in sorted(counts))
        print(f"\n{len(seeds)} seeds: {summary}", file=sys.stderr)  # a worker's stdout goes nowhere
    missing = [name for name in REQUIRED if not counts[name]]
    assert len(seeds) < SEEDS or not missing, f"these faults never happened: {missing}"


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_the_random_runs_catch_a_planted_bug(bug: Callable[[], AbstractContextManager[None]]) -> None:
    """The same runs, with one promise broken on purpose, fail within 200 seeds."""
    first = CAUGHT_LAST.get(bug.__name__, 0)
    seeds = [*range(first, SEEDS_TO_CATCH_A_BUG), *range(first)]
    with bug(), pytest.raises(AssertionError, match="seed") as caught:
        _run(seeds)
    # by a check, a refusal of the product's own, or a run that does not end: no other error, of the
    # checker's, say
    assert isinstance(caught.value.__cause__, (AssertionError, PerdureError, TimeoutError)), caught.value


def test_a_ring_is_broken_whose_calls_wait_as_copies_of_an_earlier_run() -> None:
    """Each in a full mailbox, behind the turn that waits for it. This seed has the crashes that it takes."""
    Run(1716).go()
    with rings_of_earlier_copies_stay(), pytest.raises(AssertionError, match="seed 1716"):
        Run(1716).go()


def test_a_seed_replays_exactly() -> None:
    """The same seed gives the same run: that is what makes a failure worth printing."""
    assert Run(11).go() == Run(11).go()
