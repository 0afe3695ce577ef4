"""The watermark: a growing set of offsets, whatever the order they come in."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.streams.owner.recovery import _count_as_emitted
from perdure.streams.state.offsets import WORD_BITS, WORD_BYTES, Watermark

ADDS = st.lists(
    st.integers(0, 40).map(lambda at: (at, 1)) | st.tuples(st.integers(0, 40), st.integers(0, 12)),
    max_size=30,
)
FAR_ADDS = st.lists(
    st.tuples(st.integers(0, 4 * WORD_BITS), st.sampled_from([0, 1, 2, 17, WORD_BITS - 1, WORD_BITS, 1300])),
    max_size=20,
)
FAR = st.sets(st.integers(0, 4 * WORD_BITS), max_size=40)


def members(done: Watermark, until: int) -> set[int]:
    return {offset for offset in range(until) if offset in done}


def ahead(done: Watermark) -> set[int]:
    return {offset for first, end in done.runs() for offset in range(first, end)}


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 20), ADDS)
def test_a_watermark_is_a_set_of_offsets(mark: int, adds: list[tuple[int, int]]) -> None:
    """Single offsets and runs, in any order, twice or once: the same members as a
    set, mark as high as can be.
    """
    done, model = Watermark(mark), set(range(mark))
    for first, count in adds:
        if count == 1:
            done.add(first)
        else:
            done.add_run(first, count)
        model.update(range(first, first + count))
        assert members(done, 60) == model
        assert done.mark == next(n for n in range(100) if n not in model)
        assert ahead(done) == {offset for offset in model if offset > done.mark}
        assert done.end == max(model, default=-1) + 1


@settings(max_examples=80, deadline=None)
@given(FAR_ADDS)
def test_runs_longer_than_a_word_are_the_same_set(adds: list[tuple[int, int]]) -> None:
    """The mark jumps over whole words, and stops inside one."""
    done, model = Watermark(), set[int]()
    for first, count in adds:
        done.add_run(first, count)
        model.update(range(first, first + count))
    assert done.mark == next(n for n in range(10**6) if n not in model)
    assert ahead(done) == {offset for offset in model if offset > done.mark}
    assert all(done.words.values())


@settings(max_examples=50, deadline=None)
@given(FAR)
def test_words_have_one_form_whatever_the_order(offsets: set[int]) -> None:
    """The rows of the store are the same bytes, however the turns finished."""
    forwards, backwards = Watermark(1), Watermark(1)
    for offset in sorted(offsets):
        forwards.add(offset)
    for offset in sorted(offsets, reverse=True):
        backwards.add(offset)
    assert forwards.words == backwards.words
    assert forwards.mark == backwards.mark


@settings(max_examples=80, deadline=None)
@given(FAR_ADDS, st.integers(1, 5))
def test_what_has_changed_is_all_that_must_be_written(adds: list[tuple[int, int]], every: int) -> None:
    """Rows kept by `changed` alone are the whole set when they are loaded; each is
    64 bytes and none is empty.
    """
    done, rows = Watermark(), dict[int, bytes]()
    for n, (first, count) in enumerate(adds, 1):
        done.add_run(first, count)
        if n % every == 0 or n == len(adds):
            for word, bits in done.changed().items():
                if bits is None:
                    rows.pop(word, None)
                else:
                    rows[word] = bits
    assert all(len(bits) == WORD_BYTES and any(bits) for bits in rows.values())
    again = Watermark(done.mark)
    for word, bits in rows.items():
        again.load(word, bits)
    assert (again.words, again.end) == (done.words, done.end)
    assert not done.changed(), "nothing has changed since"
    assert not again.changed(), "what was loaded is kept already"


def test_a_run_that_closes_the_gap_moves_the_mark_over_what_lay_ahead() -> None:
    """Done offsets above the mark are swallowed, not kept."""
    done = Watermark()
    done.add(5)
    done.add_run(0, 5)
    assert (done.mark, done.words) == (6, {})


def test_an_hour_behind_one_slow_turn_is_a_few_words_and_one_step() -> None:
    """Four million offsets done above the mark: what changes is the last words,
    and its end takes all away.
    """
    done = Watermark()
    done.add_run(1, 4_000_000)
    assert len(done.words) == 4_000_000 // WORD_BITS + 1
    done.changed()
    done.add(4_000_002)
    assert list(done.changed()) == [4_000_002 // WORD_BITS]
    done.add(0)
    assert (done.mark, ahead(done)) == (4_000_001, {4_000_002})


@settings(max_examples=80, deadline=None)
@given(ADDS, st.sets(st.integers(0, 60)), st.integers(0, 5))
def test_after_a_start_all_but_what_is_held_counts_as_let_out(
    adds: list[tuple[int, int]], held: set[int], low: int
) -> None:
    """As if each done offset from the low mark on were looked at by itself."""
    done, let_out, model = Watermark(low), Watermark(low), Watermark(low)
    for first, count in adds:
        done.add_run(first, count)
    _count_as_emitted(let_out, [(low, done.mark), *done.runs()], sorted(held))
    for offset in range(low, 100):
        if offset in done and offset not in held:
            model.add(offset)
    assert (let_out.mark, let_out.words) == (model.mark, model.words)
