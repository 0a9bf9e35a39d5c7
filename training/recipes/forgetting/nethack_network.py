# SPDX-License-Identifier: Apache-2.0
"""The network of a NetHack player: the terminal in parts, a core that remembers, two heads.

    agent = HackAgent(PAPER, actions=121, rngs=rngs)
    outputs_BTA, value_BT, memory = agent(seen_BT, memory, first_BT)

As in Tuyls et al. (2023), whose policy 2402.02868 begins with: the screen's characters and colours
are embedded and go through residual convolutions, a square around the cursor is read once more, the
line at the top and the two at the bottom have layers of their own, and the action before is one
more input. The paper names the width of its LSTM, 1738, and 30 million parameters in all; the sizes
of the parts are ours.

Legend: N = B T, e of an embedding, C channels, D the core's width, A actions.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from training.recipes.forgetting.nethack import Seen
from training.recipes.rl.cores import CoreConfig, CoreKind, core_of

ROWS, COLUMNS = 24, 80
MAP = slice(1, 22)  # the rows between the lines of text
CHARACTERS, COLORS = 256, 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class HackNetwork:
    """channels: of a convolution that halves both sides, and `residual` blocks after it. crop: the
    side of the square around the cursor. units: of the layers of the parts."""

    core: CoreConfig
    embedded: int = 16
    channels: tuple[int, ...] = (32, 64, 64)
    residual: int = 2
    crop: int = 9
    units: int = 512


def paper_network(kind: CoreKind = "lstm") -> HackNetwork:
    """About 30 million parameters. A Hawk has one block; its width is a multiple of 4."""
    width = 1738 if kind == "lstm" else 1736
    return HackNetwork(core=CoreConfig(kind=kind, width=width, blocks=1))


def small_network(kind: CoreKind = "lstm") -> HackNetwork:
    """For a processor."""
    core = CoreConfig(kind=kind, width=128, blocks=1)
    return HackNetwork(core=core, embedded=8, channels=(8, 16, 16), residual=0, units=64)


class HackAgent(nnx.Module):
    """Modules: encoder, core, actor, critic."""

    def __init__(self, network: HackNetwork, actions: int, *, rngs: nnx.Rngs):
        width = network.core.width
        self.encoder = Encoder(network, actions, rngs=rngs)
        self.core = core_of(network.core, rngs=rngs)
        small = nnx.initializers.variance_scaling(1e-2, "fan_in", "normal")
        self.actor = nnx.Linear(width, actions, kernel_init=small, rngs=rngs)
        self.critic = nnx.Linear(width, 1, kernel_init=small, rngs=rngs)

    def __call__(
        self, seen_BT: Seen, memory: Any, first_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        seen_N = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), seen_BT)
        x_ND = self.encoder(seen_N)
        y_BTD, memory = self.core(x_ND.reshape(*first_BT.shape, -1), memory, first_BT)
        return self.actor(y_BTD), self.critic(y_BTD)[..., 0], memory


class Encoder(nnx.Module):
    """Seen [N, ...] -> [N, D]."""

    def __init__(self, network: HackNetwork, actions: int, *, rngs: nnx.Rngs):
        e, units = network.embedded, network.units
        self.crop = network.crop
        self.character = nnx.Embed(CHARACTERS, e, rngs=rngs)
        self.color = nnx.Embed(COLORS, e, rngs=rngs)
        self.action = nnx.Embed(actions, units, rngs=rngs)
        self.stages = nnx.List([])
        rows, columns, inputs = MAP.stop - MAP.start, COLUMNS, e
        for channels in network.channels:
            self.stages.append(Stage(inputs, channels, network.residual, rngs=rngs))
            rows, columns, inputs = -(-rows // 2), -(-columns // 2), channels
        self.screen = nnx.Linear(rows * columns * inputs, units, rngs=rngs)
        self.square = nnx.Linear(network.crop**2 * e, units, rngs=rngs)
        self.top = nnx.Linear(COLUMNS * e, units, rngs=rngs)
        self.bottom = nnx.Linear(2 * COLUMNS * e, units, rngs=rngs)
        self.joined = nnx.Linear(5 * units, network.core.width, rngs=rngs)

    def __call__(self, seen_N: Seen) -> jax.Array:
        text_NHWe = self.character(seen_N.chars.astype(jnp.int32))
        shown_NHWe = text_NHWe + self.color(seen_N.colors.astype(jnp.int32))
        x_NHWC = shown_NHWe[:, MAP]
        for stage in self.stages:
            x_NHWC = stage(x_NHWC)
        square_NCCe = around(shown_NHWe, seen_N.cursor, self.crop)
        parts = [
            self.screen(_flat(x_NHWC)),
            self.square(_flat(square_NCCe)),
            self.top(_flat(text_NHWe[:, 0])),
            self.bottom(_flat(text_NHWe[:, MAP.stop :])),
            self.action(seen_N.action),
        ]
        return jax.nn.relu(self.joined(jax.nn.relu(jnp.concatenate(parts, -1))))


class Stage(nnx.Module):
    """A convolution of stride 2, and residual blocks of two each."""

    def __init__(self, inputs: int, channels: int, blocks: int, *, rngs: nnx.Rngs):
        self.first = nnx.Conv(inputs, channels, (3, 3), strides=2, rngs=rngs)
        self.blocks = nnx.List(
            [
                nnx.List([nnx.Conv(channels, channels, (3, 3), rngs=rngs) for _ in range(2)])
                for _ in range(blocks)
            ]
        )

    def __call__(self, x_NHWC: jax.Array) -> jax.Array:
        x_NHWC = self.first(x_NHWC)
        for one, two in self.blocks:
            x_NHWC += two(jax.nn.relu(one(jax.nn.relu(x_NHWC))))
        return jax.nn.relu(x_NHWC)


def around(x_NHWe: jax.Array, cursor_N2: jax.Array, side: int) -> jax.Array:
    """The square with the cursor in its middle, zeros beyond the screen: [N, side, side, e]."""
    half = side // 2
    edges = ((0, 0), (half, half), (half, half), (0, 0))

    def of_one(x_HWe: jax.Array, cursor_2: jax.Array) -> jax.Array:
        start = cursor_2[0], cursor_2[1], jnp.zeros((), cursor_2.dtype)
        return jax.lax.dynamic_slice(x_HWe, start, (side, side, x_HWe.shape[-1]))

    return jax.vmap(of_one)(jnp.pad(x_NHWe, edges), cursor_N2)


def _flat(x_N: jax.Array) -> jax.Array:
    return x_N.reshape(len(x_N), -1)
