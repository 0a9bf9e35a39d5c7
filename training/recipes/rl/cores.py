# SPDX-License-Identifier: Apache-2.0
"""What an agent remembers with: our blocks (a Hawk or a Griffin), an LSTM, a GRU, or nothing.

    core = core_of(CoreConfig(kind="hawk", width=64), rngs=nnx.Rngs(0))
    y_BTD, state = core(x_BTD, state, first_BT)      # first: an episode begins with this step
    state = core.start(batch)                        # has seen nothing

An episode is a document: where it begins the state is nothing again, inside of a row as well, so
that a rollout of many episodes is one packed row. Hawk and Griffin read a row as one scan (and
their state is the language model's, recurrentgemma/state.py); an LSTM steps through it.

Legend: B rows, T steps, D width.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from recurrentgemma.config import BlockType, GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.state import State, init_state

CoreKind = Literal["hawk", "griffin", "lstm", "gru", "none"]
PATTERNS: dict[str, tuple[BlockType, ...]] = {
    "hawk": ("recurrent",),
    "griffin": ("recurrent", "local_attention"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoreConfig:
    """width: D. blocks, window: of a Hawk or Griffin, whose window is Griffin's alone."""

    kind: CoreKind
    width: int = 64
    blocks: int = 2
    window: int = 32

    def griffin(self) -> GriffinConfig:
        """The blocks as a language model's, which has a vocabulary that nobody uses."""
        return GriffinConfig(
            width=self.width,
            mlp_width=2 * self.width,
            num_layers=self.blocks,
            lru_width=self.width,
            num_gate_blocks=4,
            num_heads=4,
            head_dim=max(4, self.width // 16 * 4),
            vocab_size=1,
            pattern=PATTERNS[self.kind],
            attention_window=self.window,
        )


def core_of(config: CoreConfig, *, rngs: nnx.Rngs) -> Any:
    """One of the modules below, newly initialised."""
    if config.kind in PATTERNS:
        return GriffinCore(config, rngs=rngs)
    if config.kind == "none":
        return NoCore(config, rngs=rngs)
    return GatedCore(config, rngs=rngs)


class GriffinCore(nnx.Module):
    """Blocks of a Hawk or Griffin."""

    def __init__(self, config: CoreConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.model = Griffin(config.griffin(), rngs=rngs)

    def start(self, batch: int) -> State:
        return init_state(self.config.griffin(), batch)

    def __call__(
        self, x_BTD: jax.Array, state: State, first_BT: jax.Array
    ) -> tuple[jax.Array, State]:
        return self.model.embedded(x_BTD, state, positions_BT=positions(state, first_BT))


def positions(state: State, first_BT: jax.Array) -> jax.Array:
    """Of each step in its episode, int32 [B, T]: from the state on until an episode begins, and
    from 0 on in each."""
    t_1T = jnp.arange(first_BT.shape[1], dtype=jnp.int32)[None]
    begun_BT = jax.lax.cummax(jnp.where(first_BT, t_1T, -1), axis=1)
    goes_on_BT = state.position_B[:, None] + t_1T
    return jnp.where(begun_BT < 0, goes_on_BT, t_1T - begun_BT)


class GatedCore(nnx.Module):
    """An LSTM (Hochreiter and Schmidhuber, 1997) or a GRU (Cho et al., 2014), Flax's cells."""

    def __init__(self, config: CoreConfig, *, rngs: nnx.Rngs):
        self.config = config
        cell = nnx.OptimizedLSTMCell if config.kind == "lstm" else nnx.GRUCell
        self.cell = cell(config.width, config.width, rngs=rngs)

    def start(self, batch: int) -> Any:
        zero_BD = jnp.zeros((batch, self.config.width))
        return (zero_BD, zero_BD) if self.config.kind == "lstm" else zero_BD

    def __call__(self, x_BTD: jax.Array, state: Any, first_BT: jax.Array) -> tuple[jax.Array, Any]:
        graphdef, params = nnx.split(self.cell)

        def step(carried: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            x_BD, first_B = at
            carried = jax.tree.map(lambda h_BD: jnp.where(first_B[:, None], 0, h_BD), carried)
            return nnx.merge(graphdef, params)(carried, x_BD)

        steps = (jnp.moveaxis(x_BTD, 1, 0), first_BT.T)
        state, y_TBD = jax.lax.scan(step, state, steps)
        return jnp.moveaxis(y_TBD, 0, 1), state


class NoCore(nnx.Module):
    """A layer that remembers nothing."""

    def __init__(self, config: CoreConfig, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(config.width, config.width, rngs=rngs)

    def start(self, batch: int) -> tuple[()]:
        del batch
        return ()

    def __call__(
        self, x_BTD: jax.Array, state: tuple[()], first_BT: jax.Array
    ) -> tuple[jax.Array, tuple[()]]:
        del first_BT
        return jnp.tanh(self.linear(x_BTD)), state
