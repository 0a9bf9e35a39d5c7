# SPDX-License-Identifier: Apache-2.0
"""What the engine runs on the device: compiled once, for any mix of requests.

B slots, T tokens of a chunk, D model width, N reported likeliest tokens.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recurrentgemma.generation.decode import (
    Decoded,
    DecodeOptions,
    DecodeState,
    check_allowed,
    decode,
)
from recurrentgemma.generation.draw import log_probs
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.walk import CHUNKS, ChunkProgram, Row, TokenChunk, Walk, prefill
from recurrentgemma.griffin import Griffin
from recurrentgemma.state import State, insert_slot

MAX_TOP = 5
SCORED_CHUNKS = CHUNKS[::2]  # fewer sizes than are read without scores: there is less to compile
SCORED_AT_ONCE = 64  # tokens of a prompt whose logits are held at a time

Scores = tuple[jax.Array, jax.Array, jax.Array]  # logp_1T, top_logp_1TN, top_tokens_1TN


class Programs:
    """The programs for one model, whose parameters stay on the device. States are donated."""

    def __init__(self, lm: LanguageModel, *, vocab_size: int):
        graphdef, self._params = nnx.split(lm.model)
        self.vocab_size, self.top = vocab_size, min(MAX_TOP, vocab_size)
        # Closed over: hashing a model's structure anew would slow every single call.
        score = partial(_score, vocab_size=vocab_size, top=self.top)
        self._read = ChunkProgram(prefill, graphdef, lm.config)
        self._score = ChunkProgram(score, graphdef, lm.config)
        self._decode = jax.jit(
            partial(decode, graphdef, vocab_size=vocab_size),
            donate_argnums=1,
            static_argnames="top",
        )
        self._insert = jax.jit(insert_slot, donate_argnums=0)

    def fresh(self, batch_size: int = 1) -> State:
        """The state of sequences that have seen nothing."""
        return self._read.fresh(batch_size)

    def read(self, prompt: Row, *, scored: bool = False, state: State | None = None) -> Walk:
        """A walk over all of a prompt but its last token, one chunk at a time, with the Scores of
        the tokens after each if `scored`. `state`: what stands before the prompt."""
        if not scored:
            return self._read.walk(self._params, [prompt[:-1]], state=state)
        return self._score.walk(
            self._params, [prompt[:-1]], targets=[prompt[1:]], state=state, sizes=SCORED_CHUNKS
        )

    def insert(self, state: State, slot: int, one: State) -> State:
        """The slots with one of them replaced."""
        return self._insert(state, np.int32(slot), one)

    def decode(
        self,
        decode_state: DecodeState,
        options: DecodeOptions,
        steps: int,
        *,
        scored: bool,
        allowed_BM: np.ndarray | None = None,
    ) -> tuple[DecodeState, Decoded]:
        """Up to `steps` more tokens in each slot that is not done; as Generator.advance."""
        if allowed_BM is not None:
            slots = len(decode_state.token_B)
            allowed_BM = check_allowed(allowed_BM, steps, slots, self.vocab_size)
        top = self.top if scored else None
        return self._decode(
            self._params, decode_state, options, np.int32(steps), allowed_BM, top=top
        )

    def warm_up(
        self,
        decode_state: Callable[[], DecodeState],
        options: DecodeOptions,
        *,
        constrained: bool,
    ) -> None:
        """Compile everything, as much of it at a time as there are cores.

        decode_state: gives new, empty slots each time it is called.
        constrained: the decoding of masks too, which takes as long to compile as that without.
        """

        def read(size: int) -> Any:
            chunk_1T, lengths_1 = np.zeros((1, size), np.int32), np.zeros(1, np.int32)
            chunk = TokenChunk(0, chunk_1T, None, None, lengths_1)
            return self._read(self._params, chunk, self.fresh())

        def score(size: int) -> Any:
            chunk_1T, lengths_1 = np.zeros((1, size), np.int32), np.zeros(1, np.int32)
            chunk = TokenChunk(0, chunk_1T, chunk_1T, None, lengths_1)
            return self._score(self._params, chunk, self.fresh())

        def insert() -> Any:
            return self.insert(decode_state().state, 0, self.fresh())

        def decode(scored: bool, masked: bool) -> Any:
            words = (len(options.max_tokens_B), -(-self.vocab_size // 32))
            allowed_BM = np.full(words, 2**32 - 1, np.uint32) if masked else None
            return self.decode(decode_state(), options, 1, scored=scored, allowed_BM=allowed_BM)

        jobs: list[Callable[[], Any]] = [insert]
        masks = (False, True) if constrained else (False,)
        jobs += [partial(decode, scored, mask) for scored in (False, True) for mask in masks]
        jobs += [partial(read, size) for size in CHUNKS]
        jobs += [partial(score, size) for size in SCORED_CHUNKS]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for compiled in [pool.submit(job) for job in jobs]:
                jax.block_until_ready(compiled.result())


def _score(
    model: Griffin, tokens_1T, targets_1T, state, *, positions, lengths, vocab_size: int, top: int
) -> tuple[Scores, State]:
    x_1TD, state = model.hidden(tokens_1T, state, positions=positions, lengths=lengths)
    block = min(SCORED_AT_ONCE, tokens_1T.shape[1])

    def score(args) -> Scores:
        x_SD, targets_S = args
        return log_probs(model.unembed(x_SD)[:, :vocab_size], targets_S, top)

    scores = jax.lax.map(
        score, (x_1TD.reshape(-1, block, x_1TD.shape[-1]), targets_1T.reshape(-1, block))
    )
    logp, top_logp, top_tokens = (jnp.reshape(s, (1, -1, *s.shape[2:])) for s in scores)
    return (logp, top_logp, top_tokens), state
