# SPDX-License-Identifier: Apache-2.0
"""A segment: the next tokens of a stream, as the step takes them.

L tokens scored (segment_length), n read again before them (overlap), T = n + L, M targets that the
head sees: the L scored ones, with learn_overlap the n of the overlap after them. Token i of a
document predicts token i + 1, its target.

With state carry and an overlap the T tokens go through the model in two calls: the first L of them
lead to the state that is kept, from which the next segment's overlap will be read, the other n
complete the segment. Padding has position -1. A document's start has position 0, which empties the
state.
"""

from typing import Any, NamedTuple

import numpy as np

from eval.dynamic.config import DynamicConfig


class Segment(NamedTuple):
    """Of one stream; of several with a leading axis S."""

    tokens_T: Any  # int32
    positions_T: Any  # int32, -1 at padding
    index_M: Any  # int32, which of the T tokens predict the targets
    targets_M: Any  # int32
    weights_M: Any  # float32, of each target in what is learned from; 0 at what is not


class Replayed(NamedTuple):
    """R rows of L tokens that are learned from beside a segment; of several streams [S, R, L]."""

    tokens_RL: Any
    positions_RL: Any
    targets_RL: Any
    weights_RL: Any


def cut(
    choices: DynamicConfig,
    ids: np.ndarray,
    start: int,
    length: int,
    *,
    learned: np.ndarray | None = None,
    offset: int = 0,
) -> Segment:
    """The segment whose scored tokens are those that `ids[start : start + length]` predict.

    ids: of the document, from its token number `offset` on; what the overlap needs is among them,
      and one token more than the segment. learned: their loss mask.
    """
    size, overlap = choices.segment_length, choices.overlap
    assert 0 < length <= size
    assert len(ids) > start + length
    assert offset == 0 or start >= overlap
    earlier = min(overlap, start)
    place_T = np.full(choices.tokens_read, -1)  # each token's place in ids
    if choices.state == "reset" or not overlap:
        place_T[: earlier + length] = np.arange(start - earlier, start + length)
        first = start - earlier if choices.state == "reset" else -offset
    else:
        place_T[:length] = np.arange(start - overlap, start - overlap + length)
        place_T[size:] = np.arange(start + length - overlap, start + length)
        first = -offset
    real_T = place_T >= 0
    place_T = np.maximum(place_T, 0)
    tokens_T = np.where(real_T, ids[place_T], 0)
    positions_T = np.where(real_T, place_T - first, -1)
    scored_T = real_T & (place_T >= start)
    learned_T = real_T if choices.learn_overlap else scored_T
    if learned is not None:
        learned_T = learned_T & learned[place_T + 1]
    index_M = np.zeros(choices.targets, np.int32)
    weights_M = np.zeros(choices.targets, np.float32)
    places = np.flatnonzero(scored_T)
    index_M[:length] = places
    weights_M[:length] = learned_T[places]
    if choices.learn_overlap:
        places = np.flatnonzero(real_T & ~scored_T)
        index_M[size : size + len(places)] = places
        weights_M[size : size + len(places)] = learned_T[places]
    targets_M = np.where(real_T, ids[np.minimum(place_T + 1, len(ids) - 1)], 0)[index_M]
    return Segment(
        tokens_T.astype(np.int32),
        positions_T.astype(np.int32),
        index_M,
        targets_M.astype(np.int32),
        weights_M / choices.targets,
    )


def nothing(choices: DynamicConfig) -> Segment:
    """Of a stream that has ended: all of it is padding."""
    zero_T, zero_M = np.zeros(choices.tokens_read, np.int32), np.zeros(choices.targets, np.int32)
    return Segment(zero_T, zero_T - 1, zero_M, zero_M, zero_M.astype(np.float32))


def replayed(choices: DynamicConfig, rows: list[np.ndarray]) -> Replayed:
    """Rows of up to L + 1 ids, at most R of them; each is read from an empty state, and their loss
    is the mean over R L targets times the weight of replay."""
    shape = (choices.replay.rows, choices.segment_length)
    tokens_RL, targets_RL = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    positions_RL, weights_RL = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    for number, ids in enumerate(rows):
        length = len(ids) - 1
        tokens_RL[number, :length], targets_RL[number, :length] = ids[:-1], ids[1:]
        positions_RL[number, :length] = np.arange(length)
        weights_RL[number, :length] = choices.replay.weight / (shape[0] * shape[1])
    return Replayed(tokens_RL, positions_RL, targets_RL, weights_RL)


def stacked(parts: list[Any]) -> Any:
    """Segments, or what is replayed, of several streams."""
    return type(parts[0])(*(np.stack(column) for column in zip(*parts, strict=True)))
