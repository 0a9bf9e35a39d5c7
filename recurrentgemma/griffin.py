# SPDX-License-Identifier: Apache-2.0
"""Griffin: tokens and a state to logits and the next state. The file to read first.

    logits_BTV, state = model(tokens_BT, state)

is the whole model: training, prefill, decoding, scoring and serving call nothing else. Hawk,
RecurrentGemma and the MQA Transformer differ in their configuration only. Where this departs from
the Griffin paper it follows DeepMind's code: a window of W + 1 keys, rotary embedding on half of
each head, biases on all but the query, key and value projections, a multiplier of 1 at a
document's first token.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from kernels.dot import dot_transposed
from recurrentgemma import parallel, remat, sharding
from recurrentgemma.blocks import AttentionBlock, ResidualBlock
from recurrentgemma.chunk import Chunk, check_inputs, locate
from recurrentgemma.config import GriffinConfig
from recurrentgemma.layers import Embedder, RMSNorm
from recurrentgemma.state import State


class Griffin(nnx.Module):
    """A language model whose memory is a state of fixed size (Griffin paper, section 2).

    With config.scan_layers the blocks are stacked by their place in the pattern (`groups`, and a
    `tail` of what remains), else they are a list (`blocks`); params.py names both alike.
    """

    def __call__(
        self,
        tokens_BT: ArrayLike,
        state: State | None = None,
        *,
        positions: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> tuple[jax.Array, State]:
        """Logits of every token and the state after the last one.

        Args:
          tokens_BT: token ids.
          state: what came before (default: nothing).
          positions: [B, T] position of each token in its document: 0 starts a document, -1 is
            padding before one (default: go on from the state).
          lengths: [B] how many tokens of each row are real; the rest is right padding.

        Returns:
          logits_BTV in float32 (meaningless at padding) and the new state.

        Raises:
          UserError: a bad shape; and, outside of jit where values are known, a token outside the
            vocabulary, positions that jump or go backwards, a length over T, or a document longer
            than the context_length of a global attention block. (Inside jit the logits of the last
            are NaN.)

        Call it inside of jax.jit, as LanguageModel, trainer and engine do: outside, each operation
        is a program of its own.
        """
        x_BTD, state = self.hidden(tokens_BT, state, positions=positions, lengths=lengths)
        return self.unembed(x_BTD), state

    def hidden(
        self,
        tokens_BT: ArrayLike,
        state: State | None = None,
        *,
        positions: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> tuple[jax.Array, State]:
        """What __call__ gives to the output head: x_BTD after the final norm; and the new state."""
        config = self.config
        tokens_BT = jnp.asarray(tokens_BT)
        positions_BT = None if positions is None else jnp.asarray(positions)
        lengths_B = None if lengths is None else jnp.asarray(lengths)
        if not parallel.divided(
            *sharding.MESH_AXIS_NAMES
        ):  # sharded.py has checked what the parts are of
            check_inputs(config, tokens_BT, state, positions_BT, lengths_B)
        x_BTD = self.embedder.encode(tokens_BT, config)
        return self.embedded(x_BTD, state, positions_BT=positions_BT, lengths_B=lengths_B)

    def embedded(
        self,
        x_BTD: jax.Array,
        state: State | None = None,
        *,
        positions_BT: jax.Array | None = None,
        lengths_B: jax.Array | None = None,
    ) -> tuple[jax.Array, State]:
        """What `hidden` makes of embeddings: of tokens, or of whatever else is observed (an agent's
        observations, recipes/rl/cores.py). Positions and lengths are as there, and not checked."""
        config = self.config
        chunk = locate(state, x_BTD.shape[:2], positions_BT, lengths_B, config.attention_window)
        x_BTD, layers = self._blocks(x_BTD, state, chunk)
        if "global_attention" in config.block_types:  # never silently forget what should be seen
            beyond_BT = chunk.positions_BT >= config.context_length
            x_BTD = jnp.where(beyond_BT[..., None], jnp.nan, x_BTD)
        x_BTD = parallel.gathered(self.final_norm, config.dtype)(x_BTD)
        return x_BTD, State(chunk.next_position_B, chunk.wrapped_B, layers)

    def _blocks(self, x_BTD: jax.Array, state: State | None, chunk: Chunk):
        """x_BTD after all blocks, and their new states."""
        config = self.config
        states = state.layers if state else (None,) * config.num_layers
        new_states: list = []
        if config.scan_layers and hasattr(self, "groups"):
            x_BTD, new_states = _scan_groups(self, x_BTD, states, chunk)
        blocks = self.tail if config.scan_layers else self.blocks
        for block, block_state in zip(blocks, states[len(new_states) :], strict=True):
            x_BTD, block_state = _remat(config, _call)(block, x_BTD, block_state, chunk)
            new_states.append(block_state)
        return x_BTD, tuple(new_states)

    def unembed(self, x_BTD: jax.Array) -> jax.Array:
        """Logits [..., V] in float32 of normed activations [..., D], soft-capped."""
        x_MD = x_BTD.reshape(-1, x_BTD.shape[-1])
        x_MD = parallel.replicate(x_MD, "tensor")
        logits = dot_transposed(x_MD, self.embedder.table(x_MD.dtype))
        if self.config.logits_soft_cap is not None:
            logits = jnp.tanh(logits / self.config.logits_soft_cap) * self.config.logits_soft_cap
        return logits.reshape(*x_BTD.shape[:-1], -1)

    def __init__(self, config: GriffinConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embedder = Embedder(config, rngs=rngs)
        types = config.block_types
        period = len(config.pattern)
        count = config.num_layers // period if config.scan_layers else 0

        def stacked(block_type, rngs: nnx.Rngs) -> ResidualBlock:
            @nnx.split_rngs(splits=count)
            @nnx.vmap(in_axes=0, out_axes=0)
            def make(rngs: nnx.Rngs) -> ResidualBlock:
                return ResidualBlock(config, block_type=block_type, rngs=rngs)

            return make(rngs)

        if count:
            self.groups = nnx.List([stacked(t, rngs) for t in types[:period]])
        blocks = [ResidualBlock(config, block_type=t, rngs=rngs) for t in types[count * period :]]
        if config.scan_layers:
            self.tail = nnx.List(blocks)
        else:
            self.blocks = nnx.List(blocks)
        self.final_norm = RMSNorm(config.width, dtype=jnp.dtype(config.param_dtype))


def for_short_documents(model: Griffin, tokens: int) -> Griffin:
    """The same model, its arrays too, for documents of at most so many tokens: what an attention
    block keeps of them is no longer than they are, where `model` has places for its whole window.
    Its states do not fit `model`."""
    short = nnx.merge(*nnx.split(model))
    short.config = dataclasses.replace(
        model.config,
        attention_window=min(model.config.attention_window, tokens),
        context_length=min(model.config.context_length, tokens),
    )
    for _, module in nnx.iter_modules(short):
        if isinstance(module, AttentionBlock):
            module.window = min(module.window, tokens)
    return short


def _call(block: ResidualBlock, x_BTD, block_state, chunk: Chunk):
    return parallel.gathered(block, x_BTD.dtype)(x_BTD, block_state, chunk)


def _scan_groups(model: Griffin, x_BTD, states, chunk: Chunk):
    """lax.scan over the groups of the pattern: one group is compiled, whatever the depth."""
    period = len(model.config.pattern)
    count = model.config.num_layers // period
    graphdef, params = nnx.split(model.groups)
    stacked_states = [
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *states[j : count * period : period])
        for j in range(period)
    ]

    def group(x_BTD, params_and_states):
        params, group_states = params_and_states
        new_states = []
        for block, block_state in zip(nnx.merge(graphdef, params), group_states, strict=True):
            x_BTD, block_state = _remat(model.config, _call)(block, x_BTD, block_state, chunk)
            new_states.append(block_state)
        return x_BTD, new_states

    x_BTD, stacked_states = jax.lax.scan(group, x_BTD, (params, stacked_states))
    new_states = [
        jax.tree.map(lambda leaf, i=i: leaf[i], stacked_states[j])
        for i in range(count)
        for j in range(period)
    ]
    return x_BTD, new_states


def _remat(config: GriffinConfig, function):
    """What the backward pass recomputes instead of keeping (config.remat)."""
    if not remat.recomputes(config):
        return function

    def pure(graphdef, params, x_BTD, block_state, chunk_arrays, may_reset):
        chunk = Chunk(*chunk_arrays, may_reset=may_reset)
        return function(nnx.merge(graphdef, params), x_BTD, block_state, chunk)

    checkpointed = jax.checkpoint(pure, static_argnums=(0, 5), policy=remat.policy(config))

    def call(block, x_BTD, block_state, chunk):
        graphdef, params = nnx.split(block)
        return checkpointed(graphdef, params, x_BTD, block_state, chunk[:-1], chunk.may_reset)

    return call
