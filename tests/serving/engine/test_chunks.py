"""A prompt is cut by its length alone, and what begins alike is cut alike."""

import pytest

from serving.engine.chunks import GRID, SIZES, kept_boundaries, last_boundary, next_span


def spans(length: int) -> list:
    cut, position = [], 0
    while position < length:
        cut.append(next_span(position, length))
        position = cut[-1].stop
    return cut


@pytest.mark.parametrize("length", [1, 15, 16, 17, GRID - 1, GRID, GRID + 1, 5 * GRID + 3])
def test_chunks_hold_all_tokens_once(length):
    cut = spans(length)
    assert [span.start for span in cut] == [0, *(span.stop for span in cut[:-1])]
    assert cut[-1].stop == length
    assert all(span.stop - span.start <= span.size in SIZES for span in cut)
    assert all((span.stop - span.start, span.size) == (GRID, GRID) for span in cut[:-1])
    assert spans(length + 2 * GRID)[: len(cut) - 1] == cut[:-1]
    assert last_boundary(length) == sum(GRID for span in cut if span.stop - span.start == GRID)


def test_the_last_boundary_is_kept_and_a_few_others():
    assert kept_boundaries(GRID - 1) == set()
    assert kept_boundaries(3 * GRID + 5) == {GRID, 2 * GRID, 3 * GRID}
    for length in (1000, 5_000, 100_000, 10**6):
        kept = kept_boundaries(length)
        assert last_boundary(length) in kept
        assert 4 <= len(kept) <= 9
        shared = kept_boundaries(length + 300)
        assert len(kept & shared) >= len(kept) // 2 - 1
