# SPDX-License-Identifier: Apache-2.0
"""Prefill in chunks and decode in a loop, both on the device, for any model of this package.

B batch, T time, V vocabulary, M 32-bit words of a bit a token, S stop tokens, C tokens that one
call can decode, N likeliest tokens.

A prompt without its last token is read by a walk (walk.py); `decode` begins with that last token,
so logits are computed for the tokens to come and for nothing else. Chunks come in a few sizes and
decode takes its number of steps as a value: neither a new prompt length nor another max_tokens
compiles anything again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recurrentgemma import parallel
from recurrentgemma.config import GriffinConfig
from recurrentgemma.generation.draw import (
    SamplingArrays,
    log_probs,
    masked,
    sample,
    sampling_arrays,
    stop_array,
)
from recurrentgemma.generation.logit_changes import LogitChanges, changed, logit_changes
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.generation.walk import ChunkProgram, prefill
from recurrentgemma.state import State

CAPACITY = 256  # C; most steps of one call of `decode`


class DecodeOptions(NamedTuple):
    """What each row of a batch asks for. Constant while it runs."""

    sampling: SamplingArrays
    stop_BS: Any  # int32, tokens that end the row; -1 is none
    max_tokens_B: Any  # int32
    changes: LogitChanges | None = None  # a program of its own where there are any


def decode_options(
    samplings: Sequence[Sampling],
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    vocab_size: int,
) -> DecodeOptions:
    """One row for each, as numpy arrays. stop_ids: the tokenizer's. Raises UserError as
    logit_changes does."""
    return DecodeOptions(
        sampling_arrays(samplings),
        stop_array(samplings, stop_ids),
        np.array([sampling.max_tokens for sampling in samplings], np.int32),
        logit_changes(samplings, prompts, vocab_size),
    )


class DecodeState(NamedTuple):
    """Where each row of a batch stands."""

    state: State  # of all tokens before `token_B`
    token_B: jax.Array  # int32, the token to read next
    count_B: jax.Array  # int32, tokens generated
    done_B: jax.Array  # bool
    counts_BV: Any = None  # int32, how often each token was generated; None where nobody asks


class Decoded(NamedTuple):
    """What one call of `decode` has generated: row i's tokens are the first taken_B[i]."""

    tokens_BC: Any  # int32, a stop token included
    taken_B: Any  # int32
    logp_BC: Any  # float32 nats at temperature 1; None unless asked for, as are the next two
    top_logp_BCN: Any
    top_tokens_BCN: Any


def decode(
    graphdef,
    params,
    decode_state: DecodeState,
    options: DecodeOptions,
    steps,
    allowed_BM: jax.Array | None = None,
    *,
    vocab_size: int,
    top: int | None,
) -> tuple[DecodeState, Decoded]:
    """Up to `steps` (at most C) more tokens of each row that is not done; ends when all are.

    vocab_size: the ids that may be drawn, which may be fewer than the model has embeddings.
    allowed_BM: bits of the tokens that may follow (draw.masked); only with one step, for what may
      follow depends on every token. None, which is a program of its own, allows all.
    top: report log-probabilities, and as many likeliest tokens beside; None reports nothing. They
      are the model's own: of all tokens, whatever is allowed, and before temperature.
    """
    model = nnx.merge(graphdef, params)
    batch_size = decode_state.token_B.shape[0]

    def unfinished(loop) -> jax.Array:
        i, decode_state, _ = loop
        return (i < steps) & ~jnp.all(decode_state.done_B)

    def step(loop):
        i, (state, token_B, count_B, done_B, counts_BV), out = loop
        x_B1D, state = model.hidden(token_B[:, None], state)
        logits_BV = parallel.whole_vocabulary(model.unembed(x_B1D[:, 0]))
        if vocab_size < logits_BV.shape[1]:
            logits_BV = logits_BV[:, :vocab_size]
        drawn_BV = logits_BV
        if options.changes is not None:
            drawn_BV = changed(drawn_BV, options.changes, counts_BV, count_B, options.stop_BS)
        if allowed_BM is not None:
            drawn_BV = masked(drawn_BV, allowed_BM)
        token_B = sample(drawn_BV, options.sampling, count_B)
        columns = [token_B] if top is None else [token_B, *log_probs(logits_BV, token_B, top)]
        out = [
            jax.lax.dynamic_update_slice_in_dim(all_BC, new_B[:, None], i, 1)
            for all_BC, new_B in zip(out, columns, strict=True)
        ]
        count_B = jnp.where(done_B, count_B, count_B + 1)
        if counts_BV is not None:
            counts_BV = counts_BV.at[jnp.arange(batch_size), token_B].add(1)
        stopped_B = jnp.any(token_B[:, None] == options.stop_BS, axis=1)
        done_B |= stopped_B | (count_B >= options.max_tokens_B)
        return i + 1, DecodeState(state, token_B, count_B, done_B, counts_BV), out

    shape = (batch_size, CAPACITY)
    out = [jnp.zeros(shape, jnp.int32)]
    if top is not None:
        out += [jnp.zeros(shape, jnp.float32), jnp.zeros((*shape, top), jnp.float32)]
        out += [jnp.zeros((*shape, top), jnp.int32)]
    start_B = decode_state.count_B
    _, decode_state, out = jax.lax.while_loop(unfinished, step, (jnp.int32(0), decode_state, out))
    tokens_BC, *reported = out
    return decode_state, Decoded(
        tokens_BC, decode_state.count_B - start_B, *(reported or [None] * 3)
    )


class Generator:
    """Prefill and `decode`, compiled for one model; its parameters stay on the device."""

    def __init__(self, graphdef, params, config: GriffinConfig, vocab_size: int):
        self.params, self.vocab_size = params, vocab_size
        self._prefill = ChunkProgram(prefill, graphdef, config, separate_start=True)
        self._decode: Callable = jax.jit(
            partial(decode, graphdef, vocab_size=vocab_size),
            donate_argnums=1,
            static_argnames="top",
        )
        self._copy: Callable[[State], State] = jax.jit(partial(jax.tree.map, jnp.copy))

    def start(self, prompts: Sequence[Sequence[int]]) -> DecodeState:
        """Read prompts, each of at least one token, but for the last token of each."""
        state = self._prefill.walk(self.params, [prompt[:-1] for prompt in prompts]).read_all()
        return self._decode_state(state, [prompt[-1] for prompt in prompts])

    def fresh(self) -> State:
        """The state of one sequence that has seen nothing."""
        return self._prefill.fresh(1)

    def start_after(self, state: State, token: int) -> DecodeState:
        """One sequence, of whose tokens but for the last one `state` is; that one is kept."""
        return self._decode_state(self._copy(state), [token])

    def read(self, tokens: Sequence[int], state: State | None) -> State:
        """The state after the tokens of one sequence, which follow `state`; that one is kept."""
        kept = self.copy(state)
        return self._prefill.walk(self.params, [tokens], state=kept).read_all()

    def copy(self, state: State | None) -> State | None:
        """A state to donate, where the one given is still needed."""
        return None if state is None else self._copy(state)

    def _decode_state(self, state: State, last: Sequence[int]) -> DecodeState:
        batch_size, last_B = len(last), np.array(last, np.int32)
        return DecodeState(
            state,
            *jax.device_put((last_B, np.zeros(batch_size, np.int32), np.zeros(batch_size, bool))),
        )

    def advance(
        self,
        decode_state: DecodeState,
        options: DecodeOptions,
        steps: int,
        *,
        allowed_BM: np.ndarray | None = None,
        top: int | None = None,
    ) -> tuple[DecodeState, Decoded]:
        """Up to `steps` more tokens. `decode_state` is donated: use the one returned.

        Raises ValueError for `allowed_BM` as check_allowed does.
        """
        if allowed_BM is not None:
            batch_size = len(options.max_tokens_B)
            allowed_BM = check_allowed(allowed_BM, steps, batch_size, self.vocab_size)
        if options.changes is not None and decode_state.counts_BV is None:
            counts = np.zeros((len(options.max_tokens_B), self.vocab_size), np.int32)
            decode_state = decode_state._replace(counts_BV=counts)
        steps = min(steps, CAPACITY)
        return self._decode(
            self.params, decode_state, options, np.int32(steps), allowed_BM, top=top
        )


def check_allowed(
    allowed_BM: np.ndarray, steps: int, batch_size: int, vocab_size: int
) -> np.ndarray:
    """The bits as uint32, for one call of `decode`.

    Raises ValueError: another shape or kind, more than one step, or a row without a token.
    """
    shape = (batch_size, -(-vocab_size // 32))
    if allowed_BM.shape != shape or allowed_BM.dtype not in (np.int32, np.uint32):
        raise ValueError(
            f"allowed_BM is {allowed_BM.dtype} of shape {allowed_BM.shape}: expected 32-bit words "
            f"of shape {shape}, a bit for each of {vocab_size} tokens"
        )
    if steps != 1:
        raise ValueError(
            f"steps is {steps}: expected 1 with allowed_BM, for what may follow depends on each "
            "token"
        )
    bits_BM = allowed_BM.view(np.uint32)
    last = np.uint32(2 ** (vocab_size % 32 or 32) - 1)  # of the last word's bits, those of tokens
    empty_B = ~(bits_BM[:, :-1].any(axis=1) | ((bits_BM[:, -1] & last) != 0))
    if empty_B.any():
        raise ValueError(f"allowed_BM: row {int(empty_B.argmax())} allows no token")
    return bits_BM
