# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of continuations of contexts, many at once, a context read once for all of its
continuations.

    scorer = ContinuationScorer(lm)
    scorer.score([(context_ids, continuation_ids), ...])

A state has one size whatever it has seen, so the four answers of a multiple-choice question begin
with four copies of the question's state. The numbers are those of `lm.score` of both together.

B rows, T tokens of a chunk.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from recurrentgemma import sharding
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.walk import ChunkProgram, prefill
from recurrentgemma.losses import token_log_probs_and_likeliest
from recurrentgemma.sharded import state_shardings
from recurrentgemma.state import State

Ids = Sequence[int]


class Continuation(NamedTuple):
    """nats: log-probability of each of its tokens. greedy: whether each was the likeliest, that is,
    whether greedy decoding would give it."""

    nats: np.ndarray  # float32
    greedy: bool

    @property
    def log_probability(self) -> float:
        """Of the whole continuation, in nats."""
        return float(self.nats.sum(dtype=np.float64))


class ContinuationScorer:
    """Scores for one model.

    batch_size: contexts, and continuations, that are read side by side.
    mesh: that the model is divided over.
    """

    def __init__(self, lm: LanguageModel, *, batch_size: int = 8, mesh: Mesh | None = None):
        graphdef, self._params = nnx.split(lm.model, nnx.Param)
        if mesh is not None:
            sharding.check_model(lm.config, mesh.shape)
            self._params = jax.device_put(self._params, sharding.shardings(mesh, self._params))
        self._lm = lm
        self._prefill = ChunkProgram(prefill, graphdef, lm.config, mesh=mesh)
        self._score = ChunkProgram(token_log_probs_and_likeliest, graphdef, lm.config, mesh=mesh)
        self._take: Callable[[State, np.ndarray], State] = jax.jit(
            lambda state, rows_B: jax.tree.map(lambda leaf: leaf[rows_B], state),
            out_shardings=None if mesh is None else state_shardings(lm.config, mesh),
        )
        rows = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
        self.batch_size = -(-batch_size // rows) * rows

    def score(
        self,
        pairs: Sequence[tuple[Ids, Ids]],
        progress: Callable[[int], None] = lambda count: None,
    ) -> list[Continuation]:
        """Of each (context, continuation). A context has at least one token, such as bos.

        progress: is told how many more are ready.
        Raises UserError: a token outside the vocabulary, or more tokens than the context_length of
        a model with global attention.
        """
        by_context: dict[tuple[int, ...], list[int]] = {}
        for index, (context, continuation) in enumerate(pairs):
            assert len(context) > 0, "a context has at least one token"
            for ids in (context, continuation):
                self._lm._check_ids(ids)
            self._lm._check_context(len(context) + len(continuation) - 1)
            by_context.setdefault(tuple(context), []).append(index)
        scored: dict[int, Continuation] = {}
        longest_first = sorted(by_context, key=len, reverse=True)
        for contexts in batches(longest_first, self.batch_size):
            rows = [(row, index) for row, ids in enumerate(contexts) for index in by_context[ids]]
            state = self._read([context[:-1] for context in contexts])
            rows.sort(key=lambda row_and_index: -len(pairs[row_and_index[1]][1]))
            for part in batches(rows, self.batch_size):
                indices = [index for _, index in part]
                last = [contexts[row][-1] for row, _ in part]
                continuations = [pairs[index][1] for index in indices]
                from_rows = self._take(state, padded([row for row, _ in part], self.batch_size))
                given = self._score_rows(last, continuations, from_rows)
                scored.update(zip(indices, given, strict=True))
                progress(len(part))
        return [scored[index] for index in range(len(pairs))]

    def _read(self, rows: Sequence[Ids]) -> State:
        rows = [*rows, *[()] * (self.batch_size - len(rows))]
        return self._prefill.walk(self._params, rows).read_all()

    def _score_rows(
        self, last: Sequence[int], continuations: Sequence[Ids], state: State
    ) -> list[Continuation]:
        """last: of the context of each, which the state has not read yet."""
        empty = [()] * (self.batch_size - len(last))
        rows = [
            [token, *ids[:-1]] if ids else []
            for token, ids in zip(last, continuations, strict=True)
        ]
        walk = self._score.walk(
            self._params, [*rows, *empty], targets=[*continuations, *empty], state=state
        )
        parts = [
            (logp_BT[row, :length], likeliest_BT[row, :length], row)
            for chunk, (logp_BT, likeliest_BT) in walk.results()
            for row, length in enumerate(chunk.lengths_B[: len(last)])
        ]
        nats: list[list[np.ndarray]] = [[] for _ in last]
        greedy = [True] * len(last)
        for logp_T, likeliest_T, row in parts:
            nats[row].append(logp_T)
            greedy[row] &= bool(likeliest_T.all())
        zero = np.zeros(0, np.float32)
        return [
            Continuation(np.concatenate([zero, *pieces]), flag)
            for pieces, flag in zip(nats, greedy, strict=True)
        ]


def batches(items: Sequence, size: int) -> Iterable[Sequence]:
    """So many at a time, in their order."""
    return (items[start : start + size] for start in range(0, len(items), size))


def padded(rows: Sequence[int], size: int) -> np.ndarray:
    return np.array([*rows, *[0] * (size - len(rows))], np.int32)
