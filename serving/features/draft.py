# SPDX-License-Identifier: Apache-2.0
"""What may come next, by a smaller model with the same tokenizer.

It reads what each sequence has generated, and then generates some tokens ahead, of all slots in one
call; its state after what is known is kept, and the one after its guesses is not. A sequence that
samples has its draft drawn from the same seed and step as its own tokens, so that both tend to draw
alike. It begins with the last CONTEXT tokens of a prompt, whatever its length: a guess may be
wrong.

B slots, W tokens of a chunk, G guesses.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recurrentgemma.errors import UserError
from recurrentgemma.generation.draw import SamplingArrays, sample, sampling_arrays
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.generation.walk import ChunkProgram, prefill
from recurrentgemma.state import State, insert_slot
from recurrentgemma.text.tokenizer import tokenizer_fingerprint

CHUNK = 128
CONTEXT = 2 * CHUNK


class DraftProposals:
    """Guesses of `draft` for the slots of an engine of `lm`. width: tokens of a verification.

    Raises UserError: they have two tokenizers, or the draft has global attention.
    """

    def __init__(self, draft: LanguageModel, lm: LanguageModel, size: int, *, width: int = 8):
        theirs, ours = (None if m.tokenizer is None else tokenizer_fingerprint(m.tokenizer)
                        for m in (draft, lm))  # fmt: skip
        if theirs != ours or draft.config.vocab_size != lm.config.vocab_size:
            raise UserError("the draft model has another tokenizer or vocabulary than the model")
        if "global_attention" in draft.config.block_types:
            raise UserError("the draft model has global attention, which holds a bounded context")
        self.size, self.width = size, width
        vocab_size = lm.tokenizer.vocab_size if lm.tokenizer else lm.config.vocab_size
        graphdef, self._params = nnx.split(draft.model)
        self._read = ChunkProgram(prefill, graphdef, draft.config)
        self._insert = jax.jit(insert_slot, donate_argnums=0)
        self._guess = jax.jit(
            partial(_guess, graphdef, vocab_size=vocab_size, guesses=width - 1), donate_argnums=1
        )
        self._state = self._read.fresh(size)
        self._sampling = sampling_arrays([Sampling(seed=0)] * size)
        self._pending: dict[int, list[int]] = {}

    def begin(self, slot: int, tokens: Sequence[int], sampling: Sampling) -> None:
        *before, last = tokens[-CONTEXT - 1 :]
        one = self._read.fresh(1)
        if before:
            walk = self._read.walk(self._params, [before], sizes=(CHUNK,))
            one = walk.read_all()
        self._state = self._insert(self._state, np.int32(slot), one)
        arrays = sampling_arrays([sampling])
        for all_B, one_1 in zip(self._sampling, arrays, strict=True):
            all_B[slot] = one_1[0]
        self._pending[slot] = [last]

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        self._pending[slot] += tokens

    def next(self, most: dict[int, int], counts: dict[int, int]) -> dict[int, list[int]]:
        if not most:
            return {}
        tokens_BW = np.zeros((self.size, self.width), np.int32)
        lengths_B, count_B = np.zeros(self.size, np.int32), np.zeros(self.size, np.int32)
        for slot in most:
            pending = self._pending[slot]
            tokens_BW[slot, : len(pending)] = pending
            lengths_B[slot], count_B[slot] = len(pending), counts[slot]
            self._pending[slot] = []
        self._state, guesses_BG = self._guess(
            self._params, self._state, tokens_BW, lengths_B, self._sampling, count_B
        )
        guesses_BG = np.asarray(guesses_BG)
        return {slot: guesses_BG[slot, :count].tolist() for slot, count in most.items()}

    def warm_up(self) -> None:
        """Compile all of it. Nobody may be guessing."""
        self.begin(0, [0] * 2, Sampling(seed=0))
        self.next({0: 1}, {0: 0})
        self._pending.clear()


def _guess(
    graphdef,
    params,
    state: State,
    tokens_BW: jax.Array,
    lengths_B: jax.Array,
    sampling: SamplingArrays,
    count_B: jax.Array,
    *,
    vocab_size: int,
    guesses: int,
) -> tuple[State, jax.Array]:
    """The state after the tokens, and what may follow them."""
    model = nnx.merge(graphdef, params)
    x_BWD, known = model.hidden(tokens_BW, state, lengths=lengths_B)
    last_B11 = jnp.maximum(lengths_B - 1, 0)[:, None, None]
    x_BD = jnp.take_along_axis(x_BWD, last_B11, 1)[:, 0]

    def draw(x_BD: jax.Array, i) -> jax.Array:
        return sample(model.unembed(x_BD)[:, :vocab_size], sampling, count_B + i)

    def step(carry, i):
        ahead, token_B = carry
        x_B1D, ahead = model.hidden(token_B[:, None], ahead)
        token_B = draw(x_B1D[:, 0], i)
        return (ahead, token_B), token_B

    first_B = draw(x_BD, 0)
    _, later_GB = jax.lax.scan(step, (known, first_B), jnp.arange(1, guesses))
    return known, jnp.concatenate([first_B[:, None], later_GB.T], 1)
