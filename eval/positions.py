# SPDX-License-Identifier: Apache-2.0
"""Sums of nats by document and by bucket of position.

A target's position is the number of tokens that stand before it in its document, which is what it
is predicted from. Bucket k holds positions [edges[k], edges[k + 1]), the last one all from its edge
on. Legend: U documents, or pieces of them; K buckets.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recurrentgemma.errors import UserError


def doubling(most: int, *, first: int = 32, parts: int = 1) -> tuple[int, ...]:
    """Edges 1, `first`, then `parts` a doubling, up to and with `most`: the last bucket is beyond.

    doubling(256)   (1, 32, 64, 128, 256)
    """
    if most < 1 or first < 1 or parts < 1:
        raise UserError(
            f"buckets up to {most} from {first}, {parts} a doubling: expected 1 or more"
        )
    edges, number = [1], 0
    while (edge := round(first * 2 ** (number / parts))) < most:
        edges += [edge] if edge > edges[-1] else []
        number += 1
    return (*edges, most) if most > edges[-1] else tuple(edges)


def bucket_names(edges: Sequence[int]) -> list[str]:
    """Of each bucket, for people: 1 to 31, 32 to 63, 64 on."""
    ends = [f"{first:,} to {after - 1:,}" for first, after in itertools.pairwise(edges)]
    return [*ends, f"{edges[-1]:,} on"]


class Sums(NamedTuple):
    """What of each document, or piece, has been summed up. `numbers` are the documents'."""

    numbers_U: np.ndarray  # int64
    pieces_U: np.ndarray  # int64
    nats_UK: np.ndarray  # float64
    tokens_UK: np.ndarray  # int64, that were scored


class PositionSums:
    """Adds log-probabilities up, document by document, in float64."""

    def __init__(self, edges: Sequence[int] = (1,)) -> None:
        self.edges = tuple(edges)
        if not self.edges or self.edges[0] != 1 or any(np.diff(self.edges) < 1):
            raise UserError(f"edges of buckets {self.edges}: expected ascending ones from 1 on")
        self._index: dict[tuple[int, int], int] = {}
        self._nats: list[np.ndarray] = []
        self._tokens: list[np.ndarray] = []
        self.nats, self.tokens = 0.0, 0  # of all documents

    def open(self, number: int, piece: int = 0) -> int:
        """The index of a document's sums, which are there from now on."""
        index = self._index.setdefault((number, piece), len(self._nats))
        if index == len(self._nats):
            self._nats.append(np.zeros(len(self.edges)))
            self._tokens.append(np.zeros(len(self.edges), np.int64))
        return index

    def add(
        self, index: int, first: int, logp_T: np.ndarray, scored_T: np.ndarray | None = None
    ) -> None:
        """Add log-probabilities of consecutive targets, of which the first has position `first`;
        those that are scored, if not all."""
        nats_K, tokens_K = self._nats[index], self._tokens[index]
        cuts = np.searchsorted(self.edges, [first, first + len(logp_T) - 1], side="right") - 1
        for bucket in range(cuts[0], cuts[1] + 1):
            last = bucket + 1 == len(self.edges)
            start = max(self.edges[bucket] - first, 0)
            stop = len(logp_T) if last else self.edges[bucket + 1] - first
            part_T = logp_T[start:stop]
            if scored_T is not None:
                part_T = part_T[scored_T[start:stop]]
            nats = -float(part_T.sum(dtype=np.float64))
            nats_K[bucket] += nats
            tokens_K[bucket] += len(part_T)
            self.nats += nats
            self.tokens += len(part_T)

    def sums(self) -> Sums:
        """All of it, by document and piece."""
        keys = sorted(self._index)
        order = [self._index[key] for key in keys]
        numbers_U, pieces_U = np.array(keys, np.int64).reshape(-1, 2).T
        shape = (len(keys), len(self.edges))
        nats_UK = np.array([self._nats[index] for index in order]).reshape(shape)
        tokens_UK = np.array([self._tokens[index] for index in order], np.int64).reshape(shape)
        return Sums(numbers_U, pieces_U, nats_UK, tokens_UK)

    def arrays(self) -> dict[str, np.ndarray]:
        """To be kept; `restore` takes them."""
        return {f"sums.{name}": array for name, array in self.sums()._asdict().items()}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Go on with sums that were kept."""
        sums = Sums(*(arrays[f"sums.{name}"] for name in Sums._fields))
        keys = zip(sums.numbers_U.tolist(), sums.pieces_U.tolist(), strict=True)
        self._index = {key: index for index, key in enumerate(keys)}
        self._nats = [np.array(nats_K) for nats_K in sums.nats_UK]
        self._tokens = [np.array(tokens_K) for tokens_K in sums.tokens_UK]
        self.nats, self.tokens = float(sums.nats_UK.sum()), int(sums.tokens_UK.sum())
