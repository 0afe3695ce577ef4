"""The watermark: a growing set of offsets, whatever the order they come in."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.streams.progress import WORD_BITS, WORD_BYTES, Watermark, offsets_in

ADDS = st.lists(
    st.integers(0, 40).map(lambda at: (at, 1)) | st.tuples(st.integers(0, 40), st.integers(0, 12)),
    max_size=30,
)
FAR = st.sets(st.integers(0, 4 * WORD_BITS), max_size=40)


def members(done: Watermark, until: int) -> set[int]:
    return {offset for offset in range(until) if offset in done}


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 20), ADDS)
def test_a_watermark_is_a_set_of_offsets(mark: int, adds: list[tuple[int, int]]) -> None:
    """Single offsets and runs, in any order, twice or once: the same members as a set, mark as high as can be."""
    done, model = Watermark(mark), set(range(mark))
    for first, count in adds:
        if count == 1:
            done.add(first)
        else:
            done.add_run(first, count)
        model.update(range(first, first + count))
        assert members(done, 60) == model
        assert done.mark == next(n for n in range(100) if n not in model)
        assert all(offset > done.mark for offset in done.ahead)
        assert done.end == max(model, default=-1) + 1


@settings(max_examples=50, deadline=None)
@given(FAR)
def test_words_have_one_form_whatever_the_order(offsets: set[int]) -> None:
    """The rows of the store are the same bytes, however the turns finished."""
    forwards, backwards = Watermark(1), Watermark(1)
    for offset in sorted(offsets):
        forwards.add(offset)
    for offset in sorted(offsets, reverse=True):
        backwards.add(offset)
    assert forwards.words() == backwards.words()
    assert forwards.mark == backwards.mark


@settings(max_examples=50, deadline=None)
@given(FAR)
def test_words_stand_for_the_offsets_above_the_mark(offsets: set[int]) -> None:
    """Read back they are the same set; each is 64 bytes and none is empty."""
    done = Watermark()
    for offset in offsets:
        done.add(offset)
    words = done.words()
    assert all(len(bits) == WORD_BYTES and any(bits) for bits in words.values())
    assert {offset for word, bits in words.items() for offset in offsets_in(word, bits)} == done.ahead


def test_a_run_that_closes_the_gap_moves_the_mark_over_what_lay_ahead() -> None:
    """Done offsets above the mark are swallowed, not kept."""
    done = Watermark()
    done.add(5)
    done.add_run(0, 5)
    assert (done.mark, done.ahead, done.words()) == (6, set(), {})
