# SPDX-License-Identifier: Apache-2.0
"""A function of a model, and a model, over a mesh of devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from recurrentgemma import sharding
from recurrentgemma.chunk import check_inputs
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.state import State, init_state


def on_mesh(mesh: Mesh, function: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """jax.shard_map over all axes of the mesh. JAX keeps no books of what is equal on which
    devices: every collective of the model carries its own gradient (parallel.py)."""
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def init_params(config: GriffinConfig, mesh: Mesh, seed: int) -> tuple[nnx.GraphDef[Griffin], Any]:
    """A model's structure and initial parameters, each made where it lies: no device ever holds
    them whole. The same values on every mesh.

    Raises:
      ValueError: the mesh does not divide the model.
    """
    sharding.check_model(config, mesh.shape)

    def init() -> tuple[nnx.GraphDef[Griffin], Any]:
        return nnx.split(Griffin(config, rngs=nnx.Rngs(seed)), nnx.Param)

    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(seed))))
    make = jax.jit(lambda: init()[1], out_shardings=sharding.shardings(mesh, shapes))
    return graphdef, make()


def place(mesh: Mesh, spec: P, *arrays: Any) -> tuple:
    """Arrays that every process holds whole, as arrays of the mesh."""
    placed = NamedSharding(mesh, spec)

    def one(x: Any) -> jax.Array:
        if jax.process_count() == 1:
            return jax.device_put(x, placed)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, placed, lambda index: x[index])

    return tuple(one(x) for x in arrays)


def start_state(config: GriffinConfig, batch_size: int, mesh: Mesh | None = None) -> State:
    """state.init_state, on the mesh where there is one."""
    if mesh is None:
        return init_state(config, batch_size)
    places = state_shardings(config, mesh)
    return jax.jit(lambda: init_state(config, batch_size), out_shardings=places)()


def state_shardings(config: GriffinConfig, mesh: Mesh) -> Any:
    """A NamedSharding for each array of a state."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        sharding.state_specs(config),
        is_leaf=lambda x: isinstance(x, P),
    )


class ShardedGriffin:
    """A Griffin whose parameters and state lie on a mesh; called like the Griffin that it is.

        mesh = make_mesh(MeshConfig(tensor=2, sequence=4))
        model = ShardedGriffin(Griffin(config, rngs=nnx.Rngs(0)), mesh)
        logits_BTV, state = model(tokens_BT, state)

    Raises:
      ValueError: the mesh does not divide the model.
    """

    def __init__(self, model: Griffin, mesh: Mesh):
        sharding.check_model(model.config, mesh.shape)
        self.config, self.mesh = model.config, mesh
        self._graphdef, params = nnx.split(model, nnx.Param)
        self.params = jax.device_put(params, sharding.shardings(mesh, params))

    def __call__(
        self,
        tokens_BT: ArrayLike,
        state: State | None = None,
        *,
        positions: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> tuple[jax.Array, State]:
        """As Griffin.__call__; B must divide over data and fsdp, T over sequence.

        Raises:
          ValueError: it does not, or as Griffin.__call__.
        """
        given: list[Any] = [
            None if x is None else np.asarray(x) for x in (tokens_BT, positions, lengths)
        ]
        check_inputs(self.config, given[0], state, *given[1:])
        batch, time = given[0].shape
        sharding.check_batch(batch, time, self.mesh.shape)
        return _call(self.mesh, self._graphdef, self.params, given[0], state, *given[1:])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _call(mesh: Mesh, graphdef, params, tokens_BT, state, positions, lengths):
    def run(params, tokens_BT, state, positions, lengths):
        model = nnx.merge(graphdef, params)
        return model(tokens_BT, state, positions=positions, lengths=lengths)

    state_specs = sharding.state_specs(nnx.merge(graphdef, params).config)
    in_specs = (
        sharding.specs(params),
        sharding.BATCH,
        None if state is None else state_specs,
        None if positions is None else sharding.BATCH,
        None if lengths is None else sharding.ROWS,
    )
    out_specs = (sharding.LOGITS, state_specs)
    return on_mesh(mesh, run, in_specs, out_specs)(params, tokens_BT, state, positions, lengths)
