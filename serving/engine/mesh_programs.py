# SPDX-License-Identifier: Apache-2.0
"""The engine's programs over a mesh whose one axis is tensor: each device has its part of the
channels of every layer and of the state, and all of them draw the same tokens.

Rows, options and results are whole on every device. Sums over devices come in another order than on
one, so last bits differ from those of one device; on one mesh they are the same as ever.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from recurrentgemma import sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.generation.decode import DecodeState
from recurrentgemma.generation.walk import TokenChunk
from recurrentgemma.sharded import on_mesh, state_shardings
from recurrentgemma.sharding import MeshConfig
from recurrentgemma.state import State, init_state, insert_slot, take_slot


def tensor_mesh(config: GriffinConfig, tensor: int) -> Mesh:
    """So many devices, over which the model's channels are divided.

    Raises UserError: there are not so many, or they do not divide the model.
    """
    devices = jax.devices()
    if not 1 <= tensor <= len(devices):
        raise UserError(f"--mesh.tensor {tensor}: expected 1 to {len(devices)}, the devices here")
    mesh = sharding.make_mesh(MeshConfig(data=1, tensor=tensor), devices[:tensor])
    sharding.check_model(config, mesh.shape)
    return mesh


def placed(mesh: Mesh, params: Any) -> Any:
    """Parameters, divided over the mesh."""
    return jax.device_put(params, sharding.shardings(mesh, params))


class MeshChunks:
    """As walk.ChunkProgram, for a function whose state comes as one State for each of its rows,
    which is kept."""

    def __init__(
        self,
        function: Callable,
        graphdef: nnx.GraphDef,
        config: GriffinConfig,
        mesh: Mesh,
        *,
        params: Any,
        rows: int,
    ):
        self._states = sharding.state_specs(config)

        def run(params, states, tokens_RT, targets_RT, lengths_R):
            model = nnx.merge(graphdef, params)
            return function(model, tokens_RT, targets_RT, states, positions=None, lengths=lengths_R)

        def call(params, states, *arrays):
            specs = (sharding.specs(params), (self._states,) * len(states), P(), P(), P())
            on_parts = on_mesh(mesh, run, specs, (P(), (self._states,) * len(states)))
            return on_parts(params, states, *arrays)

        whole, places = NamedSharding(mesh, P()), (state_shardings(config, mesh),) * rows
        given = (sharding.shardings(mesh, params), places, whole, whole, whole)
        self.jitted = jax.jit(call, in_shardings=given, out_shardings=(whole, places))
        self._fresh = jax.jit(
            partial(init_state, config),
            static_argnums=0,
            out_shardings=state_shardings(config, mesh),
        )

    def __call__(self, params, chunk: TokenChunk, states: Any) -> tuple[Any, Any]:
        return self.jitted(params, states, chunk.tokens_BT, chunk.targets_BT, chunk.lengths_B)

    def fresh(self, batch_size: int) -> State:
        return self._fresh(batch_size)


def mesh_decode(decode: Callable, config: GriffinConfig, mesh: Mesh, *, params: Any) -> Callable:
    """generation.decode.decode, with its graphdef and vocabulary, as a jitted function."""
    row: Any = P()
    state = DecodeState(sharding.state_specs(config), row, row, row, row)

    def call(top, params, decode_state, *more):
        def run(params, decode_state, options, steps, allowed_BM):
            return decode(params, decode_state, options, steps, allowed_BM, top=top)

        specs = (sharding.specs(params), state, P(), P(), P())
        return on_mesh(mesh, run, specs, (state, P()))(params, decode_state, *more)

    whole: Any = NamedSharding(mesh, P())
    places = DecodeState(state_shardings(config, mesh), whole, whole, whole, whole)
    given = (sharding.shardings(mesh, params), places, whole, whole, whole)

    @functools.cache
    def program(top: int | None) -> Callable:  # shardings allow no keyword
        call_top = partial(call, top)
        return jax.jit(
            call_top, donate_argnums=1, in_shardings=given, out_shardings=(places, whole)
        )

    return lambda *args, top: program(top)(*args)


def mesh_insert(config: GriffinConfig, mesh: Mesh) -> Callable:
    places = state_shardings(config, mesh)
    given = (places, NamedSharding(mesh, P()), places)
    return jax.jit(insert_slot, donate_argnums=0, in_shardings=given, out_shardings=places)


def mesh_take(config: GriffinConfig, mesh: Mesh) -> Callable[[State, np.int32], State]:
    places = state_shardings(config, mesh)
    given = (places, NamedSharding(mesh, P()))
    return jax.jit(take_slot, in_shardings=given, out_shardings=places)


def mesh_change(change: Callable, mesh: Mesh) -> Callable:
    """A function of arrays that are whole on every device, the first two of which are donated."""
    whole = NamedSharding(mesh, P())
    return jax.jit(change, donate_argnums=(0, 1), in_shardings=whole, out_shardings=whole)
