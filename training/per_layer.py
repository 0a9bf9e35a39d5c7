# SPDX-License-Identifier: Apache-2.0
"""A train state by canonical parameter name, layer by layer, and back: how it is stored.

A model that scans its layers holds them stacked. They are sliced, and stacked again, in one program
and where they lie on the mesh, so no device ever holds more of them than its part.
"""

import functools
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from recurrentgemma import params, sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.params import Flat


def unstacked(tree: Any, config: GriffinConfig, mesh: Mesh | None = None) -> Any:
    """The tree with each nnx.State, of parameters or of an optimizer's moments of some of them, as
    a flat dictionary by canonical name.

    Scanned layers are copied; everything else is passed on as it is.
    """

    def flat(leaf: Any) -> Any:
        if not isinstance(leaf, nnx.State):
            return leaf
        arrays = params.by_path(leaf)
        if config.scan_layers:
            return _unstack(arrays, config, mesh)
        return params.unstack(config, arrays)

    return jax.tree.map(flat, tree, is_leaf=_is_state)


def stacked(tree: Any, like: Any, config: GriffinConfig, mesh: Mesh | None = None) -> Any:
    """The inverse of unstacked: a tree structured like `like`."""

    def state(leaf: Any, stored: Any) -> Any:
        if not isinstance(leaf, nnx.State):
            return stored
        if not config.scan_layers:
            return params.replaced(config, leaf, stored)
        arrays = _stack(stored, tuple(params.by_path(leaf)), config, mesh)
        return jax.tree.unflatten(jax.tree.structure(leaf), arrays)

    return jax.tree.map(state, like, tree, is_leaf=_is_state)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _unstack(arrays: Flat, config: GriffinConfig, mesh: Mesh | None) -> Flat:
    flat = params.unstack(config, arrays)
    return {name: _placed(name, value, mesh) for name, value in flat.items()}


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _stack(
    flat: Flat, paths: tuple[str, ...], config: GriffinConfig, mesh: Mesh | None
) -> list[jax.Array]:
    arrays = params.stack(config, flat, paths)
    return [_placed(path, value, mesh) for path, value in arrays.items()]


def _placed(name: str, value: jax.Array, mesh: Mesh | None) -> jax.Array:
    if mesh is None:
        return value
    where = NamedSharding(mesh, sharding.param_spec(name, value.ndim))
    return jax.lax.with_sharding_constraint(value, where)


def _is_state(tree: Any) -> bool:
    return isinstance(tree, nnx.State)
