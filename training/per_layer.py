# SPDX-License-Identifier: Apache-2.0
"""A train state by canonical parameter name, layer by layer, and back: how it is stored.

A model that scans its layers holds them stacked. They are sliced, and stacked again, in one program
and where they lie on the mesh, so no device ever holds more of them than its part.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from checkpoints.orbax_tree import flatten, nest
from recurrentgemma import sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import canonical_names


def apart(tree: Any, config: GriffinConfig, mesh: Mesh | None = None) -> Any:
    """The tree with each nnx.State, of parameters or of an optimizer's moments of some of them, as
    nested dictionaries of canonical names.

    Scanned layers are copied; everything else is passed on as it is.
    """

    def flat(leaf: Any) -> Any:
        if not isinstance(leaf, nnx.State):
            return leaf
        named = _named(leaf)
        return nest(_apart(named, config, mesh) if config.scan_layers else _slices(named, config))

    return jax.tree.map(flat, tree, is_leaf=_is_state)


def together(stored: Any, like: Any, config: GriffinConfig, mesh: Mesh | None = None) -> Any:
    """The inverse of apart: a tree structured like `like`."""

    def built(leaf: Any, nested: Any) -> Any:
        if not isinstance(leaf, nnx.State):
            return nested
        flat, names = flatten(nested), tuple(_named(leaf))
        if config.scan_layers:
            values = _together(flat, names, config, mesh)
        else:
            values = _stacks(flat, names, config)
        return jax.tree.unflatten(jax.tree.structure(leaf), values)

    return jax.tree.map(built, like, stored, is_leaf=_is_state)


def _slices(named: dict[str, jax.Array], config: GriffinConfig) -> dict[str, jax.Array]:
    flat = {}
    for name, value in named.items():
        path = name.split("/")
        values = value if path[0] == "groups" else [value]
        flat |= {each: values[i] for i, each in enumerate(canonical_names(config, path))}
    return flat


def _stacks(
    flat: dict[str, jax.Array], names: Sequence[str], config: GriffinConfig
) -> list[jax.Array]:
    stacks = []
    for name in names:
        path = name.split("/")
        values = [flat[each] for each in canonical_names(config, path)]
        stacks.append(jnp.stack(values) if path[0] == "groups" else values[0])
    return stacks


@functools.partial(jax.jit, static_argnums=(1, 2))
def _apart(
    named: dict[str, jax.Array], config: GriffinConfig, mesh: Mesh | None
) -> dict[str, jax.Array]:
    flat = _slices(named, config)
    return {name: _placed(name, value, mesh) for name, value in flat.items()}


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _together(
    flat: dict[str, jax.Array], names: tuple[str, ...], config: GriffinConfig, mesh: Mesh | None
) -> list[jax.Array]:
    stacks = _stacks(flat, names, config)
    return [_placed(name, value, mesh) for name, value in zip(names, stacks, strict=True)]


def _placed(name: str, value: jax.Array, mesh: Mesh | None) -> jax.Array:
    if mesh is None:
        return value
    where = NamedSharding(mesh, sharding.param_spec(name, value.ndim))
    return jax.lax.with_sharding_constraint(value, where)


def _named(state: nnx.State) -> dict[str, jax.Array]:
    """The leaves of a state by path; a moment that the optimizer leaves out is none."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {sharding.parameter_name(path): leaf for path, leaf in leaves}


def _is_state(tree: Any) -> bool:
    return isinstance(tree, nnx.State)
