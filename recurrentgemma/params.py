# SPDX-License-Identifier: Apache-2.0
"""A model's parameters by canonical name, layer by layer, however the model holds its layers.

A Griffin that scans its layers stacks those at the same place of the pattern in one array. A path
is where an array stands in the modules; its canonical name is the same in every model:

    groups/1/mlp_block/ffw_up/weight     layers 1, 4, 7, ... of a model that scans its layers
    tail/0/mlp_block/ffw_up/weight       the first layer after its last whole group
    blocks/1/mlp_block/ffw_up/weight     layer 1 of a model that does not
    blocks.1/mlp_block/ffw_up/weight     layer 1, the canonical name

Above the disk (checkpoints/orbax_tree.py) parameters, adapters and an optimizer's moments travel as
flat dictionaries by canonical name.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.parameters import param_shapes
from recurrentgemma.sharding import parameter_name

Flat = dict[str, jax.Array]


def canonical_names(config: GriffinConfig, path: str) -> list[str]:
    """The canonical name of what stands at a path of the model, an array or a module; the names of
    all layers that are stacked there."""
    kind, *inner = path.split("/")
    if kind not in ("groups", "tail", "blocks"):
        return [path]
    period = len(config.pattern)
    whole = config.num_layers // period * period
    first = int(inner[0]) + (whole if kind == "tail" else 0)
    layers = range(first, whole, period) if is_stacked(path) else [first]
    return ["/".join([f"blocks.{layer}", *inner[1:]]) for layer in layers]


def is_stacked(path: str) -> bool:
    """Whether an array at this path has layers as its first axis."""
    return path.startswith("groups/")


def by_path(state: nnx.State) -> Flat:
    """The arrays of a state by path; a moment that the optimizer leaves out is none."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {parameter_name(path): leaf for path, leaf in leaves}


def unstack(config: GriffinConfig, arrays: Mapping[str, jax.Array]) -> Flat:
    """Arrays by path, each layer by its canonical name."""
    flat: Flat = {}
    for path, array in arrays.items():
        layers = array if is_stacked(path) else [array]
        flat |= {name: layers[i] for i, name in enumerate(canonical_names(config, path))}
    return flat


def stack(config: GriffinConfig, flat: Mapping[str, jax.Array], paths: Iterable[str]) -> Flat:
    """The inverse of unstack: arrays by canonical name, as they stand at the paths given."""
    arrays: Flat = {}
    for path in paths:
        layers = [flat[name] for name in canonical_names(config, path)]
        arrays[path] = jnp.stack(layers) if is_stacked(path) else layers[0]
    return arrays


def replaced(config: GriffinConfig, state: nnx.State, flat: Mapping[str, jax.Array]) -> nnx.State:
    """A state with the same structure and the arrays of `flat`, by canonical name."""
    arrays = stack(config, flat, by_path(state))
    return jax.tree.unflatten(jax.tree.structure(state), list(arrays.values()))


def flat_params(model: Griffin) -> Flat:
    """The parameters by canonical name, whether the model scans its layers or not.

    Raises:
      ValueError: the model has adapters; see adapters.flat_adapters.
    """
    flat = unstack(model.config, by_path(nnx.state(model, nnx.Param)))
    shapes = param_shapes(model.config)
    if unknown := flat.keys() - shapes.keys():
        raise ValueError(
            f"the model has {len(unknown)} parameters that no Griffin has, such as {min(unknown)!r}"
        )
    return {name: flat[name] for name in shapes}


def from_flat_params(config: GriffinConfig, flat: Mapping[str, jax.Array]) -> Griffin:
    """The model with these parameters by canonical name, taken as they are.

    Raises:
      ValueError: a parameter is missing, unknown or has another shape than the configuration's.
    """
    shapes = param_shapes(config)
    for name in sorted(shapes.keys() ^ flat.keys()):
        kind = "missing" if name in shapes else "not a parameter of this model"
        raise ValueError(f"parameter {name!r} is {kind}")
    for name, shape in shapes.items():
        if flat[name].shape != shape:
            raise ValueError(f"parameter {name!r} has shape {flat[name].shape}; expected {shape}")
    model = nnx.eval_shape(lambda: Griffin(config, rngs=nnx.Rngs(0)))
    graphdef, abstract = nnx.split(model)
    return nnx.merge(graphdef, replaced(config, abstract, flat))
