# SPDX-License-Identifier: Apache-2.0
"""Reads rows of tokens, of any lengths, through a model: the one walker of tokens in chunks.

    scorer = ChunkProgram(token_log_probs, graphdef, config)
    walk = scorer.walk(params, [ids[:-1]], targets=[ids[1:]])
    for chunk, logp_BT in walk.results(): ...
    walk.state  # after all tokens

Prefill, log-probabilities, logits, perplexity and the engine's prompts are walks of different
functions. Chunks come in a few sizes, the last one padded, so that a new length compiles nothing;
memory does not grow with the length.

B rows, T tokens of a chunk.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from recurrentgemma import sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.sharded import on_mesh, place, state_shardings
from recurrentgemma.state import State, init_state

CHUNKS = (16, 128, 1024)

Row = Sequence[int] | np.ndarray


class TokenChunk(NamedTuple):
    """Tokens [start, start + T) of each row, as numpy arrays; 0 at padding."""

    start: int
    tokens_BT: np.ndarray  # int32
    targets_BT: np.ndarray | None  # int32
    positions_BT: np.ndarray | None  # int32, -1 at padding
    lengths_B: np.ndarray  # int32, how many tokens of each row are real; 0 where it has ended


def prefill(model: Griffin, tokens_BT, targets_BT, state, *, positions, lengths):
    """Nothing but the state after the chunk."""
    return None, model.hidden(tokens_BT, state, positions=positions, lengths=lengths)[1]


def chunk_logits(model: Griffin, tokens_BT, targets_BT, state, *, positions, lengths):
    """logits_BTV of the chunk, and the state after it."""
    return model(tokens_BT, state, positions=positions, lengths=lengths)


class ChunkProgram:
    """`function(model, tokens_BT, targets_BT, state, *, positions, lengths)`, compiled once for
    each size of chunk. It returns (result, state): a result of arrays [B, T, ...], or None.

    mesh: parameters and state lie on it (sharding.py). The function runs on its parts, and gives
      parts as result_spec says; results come whole. Chunks and the number of rows are made larger
      where the mesh asks for it.
    separate_start: rows that begin with nothing read have a program of their own for the first
      chunk, which spares it the empty window. Without, they begin with an empty state: there is
      half as much to compile.
    donate: the state before a chunk is given up, and its memory used for the one after it.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Any, State]],
        graphdef: nnx.GraphDef[Griffin],
        config: GriffinConfig,
        *,
        mesh: Mesh | None = None,
        result_spec: P = sharding.BATCH,
        separate_start: bool = False,
        donate: bool = True,
    ):
        self.config, self.mesh = config, mesh
        self._separate_start = separate_start
        # Closed over, because hashing a model's structure anew would slow every single call.
        run, init = partial(_run, function, graphdef), partial(init_state, config)
        if mesh is None:
            self.jitted = jax.jit(run, donate_argnums=1 if donate else ())
            self._fresh = jax.jit(init, static_argnums=0)
        else:
            run_on_mesh = partial(
                _run_on_mesh, mesh, run, sharding.state_specs(config), result_spec
            )
            whole, places = NamedSharding(mesh, P()), state_shardings(config, mesh)
            self.jitted = jax.jit(
                run_on_mesh, donate_argnums=1 if donate else (), out_shardings=(whole, places)
            )
            self._fresh = jax.jit(init, static_argnums=0, out_shardings=places)

    def __call__(self, params, chunk: TokenChunk, state: State | None) -> tuple[Any, State]:
        """The function's result for a chunk, and the state after it. `state` is donated, unless
        the program was made to keep it."""
        _, *arrays, lengths_B = chunk
        if self.mesh is not None:
            arrays = [x if x is None else place(self.mesh, sharding.BATCH, x)[0] for x in arrays]
            (lengths_B,) = place(self.mesh, sharding.ROWS, lengths_B)
        return self.jitted(params, state, *arrays, lengths_B)

    def fresh(self, batch_size: int) -> State:
        """The state of rows that have seen nothing."""
        return self._fresh(batch_size)

    def walk(
        self,
        params,
        rows: Sequence[Row],
        *,
        targets: Sequence[Row] | None = None,
        positions: Sequence[Row] | None = None,
        state: State | None = None,
        sizes: Sequence[int] | None = None,
    ) -> "Walk":
        """A walk over `rows`; targets and positions are as long as they are.

        state: of all that stands before the rows, which this donates: copy one that is needed
          again (`jax.tree.map(jnp.copy, state)`). None: nothing was read.
        sizes: of chunks, ascending; by default CHUNKS.
        """
        sizes = CHUNKS if sizes is None else sizes
        columns = [rows, targets, positions]
        if self.mesh is not None:
            time, batch = self.mesh.shape["sequence"], self.mesh.shape["data"]
            batch *= self.mesh.shape["fsdp"]
            sizes = [-(-size // time) * time for size in sizes]
            empty = [()] * (-len(rows) % batch)
            columns = [column if column is None else [*column, *empty] for column in columns]
        if state is None and not self._separate_start:
            state = self.fresh(len(columns[0] or ()))
        return Walk(partial(self, params), *columns, state=state, sizes=sizes, fresh=self.fresh)


class Walk:
    """Rows of tokens on their way through a model. `state` is that of all tokens read so far; None
    where nothing was."""

    def __init__(
        self,
        step: Callable[[TokenChunk, State | None], tuple[Any, State]],
        rows: Sequence[Row] | None,
        targets: Sequence[Row] | None,
        positions: Sequence[Row] | None,
        *,
        state: State | None,
        sizes: Sequence[int],
        fresh: Callable[[int], State],
    ):
        self.state = state
        self._step, self._fresh = step, fresh
        self._columns = [
            column if column is None else [np.asarray(row, np.int32) for row in column]
            for column in (rows, targets, positions)
        ]
        self._lengths_B = np.array([len(row) for row in self._columns[0] or ()], np.int32)
        for column in self._columns[1:]:
            assert column is None or [len(row) for row in column] == self._lengths_B.tolist()
        self._sizes = deque(chunk_sizes(int(self._lengths_B.max()), sizes))
        self._start = 0

    @property
    def finished(self) -> bool:
        return not self._sizes

    def advance(self) -> tuple[TokenChunk, Any]:
        """Read the next chunk; returns it and the function's result, without waiting for it."""
        size, start = self._sizes.popleft(), self._start
        tokens_BT, targets_BT, positions_BT = (
            None if column is None else _padded(column, start, size, padding)
            for column, padding in zip(self._columns, (0, 0, -1), strict=True)
        )
        assert tokens_BT is not None
        lengths_B = np.clip(self._lengths_B - start, 0, size)
        chunk = TokenChunk(start, tokens_BT, targets_BT, positions_BT, lengths_B)
        self._start += size
        result, self.state = self._step(chunk, self.state)
        return chunk, result

    def results(self) -> Iterator[tuple[TokenChunk, Any]]:
        """The chunks to come with their results as numpy arrays, each of which is fetched while
        the device reads the next chunk."""
        behind = None
        while not self.finished:
            ahead = self.advance()
            if behind is not None:
                yield behind[0], jax.device_get(behind[1])
            behind = ahead
        if behind is not None:
            yield behind[0], jax.device_get(behind[1])

    def read_all(self) -> State:
        """The state after the last token."""
        while not self.finished:
            self.advance()
        if self.state is None:  # there was no token
            self.state = self._fresh(len(self._lengths_B))
        return self.state


def chunk_sizes(length: int, sizes: Sequence[int]) -> list[int]:
    """Chunks of the given sizes that together hold `length` tokens, the last one padded.

    A chunk is never more than half padding, unless it is of the smallest size.
    """
    chunks = []
    while length > 0:
        fits = [size for size in sizes if size < 2 * length] or [sizes[0]]
        chunks.append(fits[-1])
        length -= fits[-1]
    return chunks


def _padded(rows: Sequence[np.ndarray], start: int, size: int, padding: int) -> np.ndarray:
    chunk_BT = np.full((len(rows), size), padding, np.int32)
    for row_T, chunk_T in zip(rows, chunk_BT, strict=True):
        part_T = row_T[start : start + size]
        chunk_T[: len(part_T)] = part_T
    return chunk_BT


def _run(function, graphdef, params, state, tokens_BT, targets_BT, positions_BT, lengths_B):
    model = nnx.merge(graphdef, params)
    return function(model, tokens_BT, targets_BT, state, positions=positions_BT, lengths=lengths_B)


def _run_on_mesh(mesh, run, state_specs, result_spec, params, state, *arrays):
    specs = [*(x if x is None else sharding.BATCH for x in arrays[:-1]), sharding.ROWS]
    in_specs = (sharding.specs(params), state if state is None else state_specs, *specs)
    return on_mesh(mesh, run, in_specs, (result_spec, state_specs))(params, state, *arrays)
