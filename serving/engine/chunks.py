# SPDX-License-Identifier: Apache-2.0
"""Where a prompt is cut: by its length alone, so that equal prompts are read alike.

    0        128       256       300          a prompt of 300 tokens that are read
    |  GRID   |  GRID   | tail    |           the tail is padded to the smallest size that holds it

Full chunks of GRID tokens from the prompt's beginning, and one for what is left. Whatever has the
same beginning has the same full chunks: the state after each of them is what every such prompt
computes, bit for bit, so that it can be kept for all of them (features/prefix_cache.py). That is
why chunks do not grow with the length.
"""

from typing import NamedTuple

GRID = 128
SIZES = (16, GRID)  # in which tokens are read; others would have to be compiled, too


class Span(NamedTuple):
    """Tokens [start, stop) of a prompt, in a chunk of `size`."""

    start: int
    stop: int
    size: int


def next_span(position: int, length: int) -> Span:
    """What is read after `position` tokens of `length`; position is on the grid."""
    assert position % GRID == 0, position
    assert position < length, (position, length)
    stop = min(position + GRID, length)
    return Span(position, stop, next(size for size in SIZES if size >= stop - position))


def last_boundary(length: int) -> int:
    """The last place of the grid in `length` tokens."""
    return length // GRID * GRID


def kept_boundaries(length: int, most: int = 8) -> set[int]:
    """Places of the grid after which the state of a prompt is worth keeping: the last one, and
    about `most` others at equal distances, a power of two, so that other prompts of about this
    length that begin alike have the same."""
    distance = GRID
    while distance * most < length:
        distance *= 2
    return {*range(distance, length + 1, distance), last_boundary(length)} - {0}
