# SPDX-License-Identifier: Apache-2.0
"""What the engine runs on the device: compiled once, for any mix of requests.

B slots, R prompts read together, T tokens of a chunk, D model width, V vocabulary, N reported
likeliest tokens.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recurrentgemma import parallel
from recurrentgemma.adapter_bank import NONE, AdapterBank
from recurrentgemma.generation.decode import (
    Decoded,
    DecodeOptions,
    DecodeState,
    decode,
)
from recurrentgemma.generation.draw import log_probs
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.logit_changes import LogitChanges
from recurrentgemma.generation.walk import ChunkProgram, TokenChunk, prefill
from recurrentgemma.griffin import Griffin
from recurrentgemma.state import State, insert_slot, take_slot
from serving.engine.chunks import SIZES
from serving.engine.mesh_programs import (
    MeshChunks,
    mesh_change,
    mesh_decode,
    mesh_insert,
    mesh_take,
    placed,
)

MAX_TOP = 5
SCORED_AT_ONCE = 64  # tokens of a prompt whose logits are held at a time

Scores = tuple[jax.Array, jax.Array, jax.Array]  # logp_RT, top_logp_RTN, top_tokens_RTN


class RowChunk(NamedTuple):
    """The next tokens of one prompt, as numpy arrays, and the state before them, of one row."""

    tokens_T: np.ndarray
    targets_T: np.ndarray | None  # to be scored
    state: State
    place: int = NONE  # of its adapter


class Programs:
    """The programs for one model, whose parameters stay on the device.

    rows: prompts that one call reads. A call has so many rows whether there are as many or not,
      because the shape of a program must not depend on who else is there.
    bank: of adapters beside the model; then every call has it, whoever asks for one.
    mesh: over which parameters and states are divided (mesh_programs.py); without a bank.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        vocab_size: int,
        rows: int = 1,
        bank: AdapterBank | None = None,
        mesh: Mesh | None = None,
    ):
        graphdef, self._params = nnx.split(lm.model)
        self._bank, self.graphdef = bank, graphdef
        if bank is not None:
            graphdef = self.graphdef = bank.graphdef
        self.vocab_size, self.top, self.rows = vocab_size, min(MAX_TOP, vocab_size), rows
        # Closed over: hashing a model's structure anew would slow every single call.
        score = partial(_score, vocab_size=vocab_size, top=self.top)
        self._whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        if mesh is not None:
            assert bank is None, "adapters over a mesh"
            self._compile_over(mesh, lm, graphdef, score)
            self.empty = self.fresh()
            return
        # A state that was read stays as it is: it may be kept, or begin several answers.
        self._read = ChunkProgram(partial(_rows, prefill), graphdef, lm.config, donate=False)
        self._score = ChunkProgram(partial(_rows, score), graphdef, lm.config, donate=False)
        self._decode = jax.jit(
            partial(decode, graphdef, vocab_size=vocab_size),
            donate_argnums=1,
            static_argnames="top",
        )
        self._insert = jax.jit(insert_slot, donate_argnums=0)
        self._take: Callable[..., State] = jax.jit(take_slot)
        self._change = jax.jit(_change_row, donate_argnums=(0, 1))
        self.empty = self.fresh()

    def _compile_over(self, mesh: Mesh, lm: LanguageModel, graphdef, score: Callable) -> None:
        self._params = placed(mesh, self._params)
        config, params = lm.config, self._params
        for name, function in (("_read", prefill), ("_score", score)):
            rows = partial(_rows, function)
            program = MeshChunks(rows, graphdef, config, mesh, params=params, rows=self.rows)
            setattr(self, name, program)
        one_device = partial(decode, graphdef, vocab_size=self.vocab_size)
        self._decode = mesh_decode(one_device, config, mesh, params=params)
        self._insert, self._take = mesh_insert(config, mesh), mesh_take(config, mesh)
        self._change = mesh_change(_change_row, mesh)

    def fresh(self, batch_size: int = 1) -> State:
        """The state of sequences that have seen nothing."""
        return self._read.fresh(batch_size)

    def read(self, chunks: Sequence[RowChunk], *, size: int) -> tuple[list[State], Scores | None]:
        """The states after chunks of at most `size` tokens, at most `rows` of them; and where all
        of them have targets, the scores of these."""
        scored = chunks[0].targets_T is not None
        tokens_RT = np.zeros((self.rows, size), np.int32)
        targets_RT = np.zeros((self.rows, size), np.int32) if scored else None
        lengths_R = np.zeros(self.rows, np.int32)
        for row, (tokens_T, targets_T, *_) in enumerate(chunks):
            lengths_R[row] = len(tokens_T)
            tokens_RT[row, : len(tokens_T)] = tokens_T
            if targets_RT is not None:
                assert targets_T is not None
                targets_RT[row, : len(tokens_T)] = targets_T
        states = [chunk.state for chunk in chunks]
        states += [self.empty] * (self.rows - len(chunks))
        chunk = TokenChunk(0, tokens_RT, targets_RT, None, lengths_R)
        program = cast(Any, self._score if scored else self._read)  # a state a row, not a State
        place_R = np.full(self.rows, NONE, np.int32)
        place_R[: len(chunks)] = [chunk.place for chunk in chunks]
        scores, after = program(self.with_adapters(place_R), chunk, tuple(states))
        return list(after)[: len(chunks)], scores

    def on_device(self, arrays: Any) -> Any:
        """Arrays that are whole on every device."""
        return jax.device_put(arrays, self._whole)

    def insert(self, state: State, slot: int, one: State) -> State:
        """The slots with one of them replaced."""
        return self._insert(state, np.int32(slot), one)

    def take(self, state: State, slot: int) -> State:
        """The state of one slot."""
        return self._take(state, np.int32(slot))

    def decode(
        self,
        decode_state: DecodeState,
        options: DecodeOptions,
        steps: int,
        *,
        scored: bool,
        place_B: np.ndarray,
        allowed_BM: np.ndarray | None = None,
    ) -> tuple[DecodeState, Decoded]:
        """Up to `steps` more tokens in each slot that is not done; as Generator.advance.

        place_B: of each slot's adapter.
        allowed_BM: with options.changes, which are a program together; one step unless it allows
          everything.
        """
        top = self.top if scored else None
        return self._decode(
            self.with_adapters(place_B),
            decode_state,
            options,
            np.int32(steps),
            allowed_BM,
            top=top,
        )

    def with_adapters(self, place_B: np.ndarray) -> Any:
        """The parameters, for rows with these adapters."""
        return self._params if self._bank is None else self._bank.params_for(place_B)

    def change(
        self, changes: LogitChanges, counts_BV: jax.Array, slot: int, one: LogitChanges
    ) -> tuple[LogitChanges, jax.Array]:
        """The changes of all slots with one of them replaced, which has generated nothing yet. The
        first two are donated."""
        return self._change(changes, counts_BV, np.int32(slot), one)

    def warm_up(self, calls: Sequence[Callable[[], Any]]) -> None:
        """Compile all that reads prompts and what `calls` call, as much of it at a time as there
        are cores."""

        def read(size: int, scored: bool) -> Any:
            tokens_T = np.zeros(0, np.int32)
            return self.read(
                [RowChunk(tokens_T, tokens_T if scored else None, self.empty)], size=size
            )

        jobs = [
            *calls,
            *(partial(read, size, scored) for size in SIZES for scored in (False, True)),
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for compiled in [pool.submit(job) for job in jobs]:
                jax.block_until_ready(compiled.result())


def _rows(
    function, model: Griffin, tokens_RT, targets_RT, states, *, positions, lengths
) -> tuple[Any, Any]:
    """A function of a batch, where each row's state comes, and goes, as a state of its own."""
    state = jax.tree.map(lambda *rows: jnp.concatenate(rows), *states)
    result, state = function(
        model, tokens_RT, targets_RT, state, positions=positions, lengths=lengths
    )
    return result, tuple(take_slot(state, row) for row in range(len(states)))


def _change_row(changes: LogitChanges, counts_BV: jax.Array, slot, one: LogitChanges):
    def put(all_B, one_1):
        return jax.lax.dynamic_update_slice_in_dim(all_B, one_1, slot, 0)

    zero_1V = jnp.zeros((1, counts_BV.shape[1]), counts_BV.dtype)
    return jax.tree.map(put, changes, one), put(counts_BV, zero_1V)


def _score(
    model: Griffin, tokens_RT, targets_RT, state, *, positions, lengths, vocab_size: int, top: int
) -> tuple[Scores, State]:
    x_RTD, state = model.hidden(tokens_RT, state, positions=positions, lengths=lengths)
    block = min(SCORED_AT_ONCE, tokens_RT.shape[1])

    def score(args) -> Scores:
        x_SD, targets_S = args
        logits_SV = parallel.whole_vocabulary(model.unembed(x_SD))
        return log_probs(logits_SV[:, :vocab_size], targets_S, top)

    scores = jax.lax.map(
        score, (x_RTD.reshape(-1, block, x_RTD.shape[-1]), targets_RT.reshape(-1, block))
    )
    logp, top_logp, top_tokens = (jnp.reshape(s, (*tokens_RT.shape, *s.shape[2:])) for s in scores)
    return (logp, top_logp, top_tokens), state
