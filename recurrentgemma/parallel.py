# SPDX-License-Identifier: Apache-2.0
"""What the model's code says where it runs on several devices: five collectives, by name.

The sharded model is the same code inside `jax.shard_map` over the mesh of sharding.py, each device
with its part of the batch (axes data and fsdp), of the sequence and of the channels (tensor), and
its part of each parameter (tensor; fsdp and sequence, to keep it small). Outside of one, and on
axes of size 1, everything here is the identity.

Gradients are taken inside, where JAX's own rule for a sum over devices would count it once per
device. So each collective here carries its gradient (Megatron's f and g, arXiv 1909.08053,
section 3):

    replicate    x, equal on all devices of the axes; the gradient is summed over them
    all_reduce   the sum over the axes; the gradient is the same for each summand
    gather       a parameter whole along fsdp and sequence; the gradient is summed over every device
                 that saw other tokens, and each keeps its part of it
"""

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from recurrentgemma import sharding

Module = TypeVar("Module", bound=nnx.Module)

GATHERED = "gathered"  # what rematerialisation never keeps: a parameter whole


def size(axis: str) -> int:
    """Devices along a mesh axis; 1 outside of a shard_map over it."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[axis] if axis in mesh.manual_axes else 1


def axis(name: str) -> str | None:
    """The mesh axis if it has more than one device, as kernels want it."""
    return name if size(name) > 1 else None


def divided(*axes: str) -> tuple[str, ...]:
    """Those of the axes that have more than one device."""
    return tuple(axis for axis in axes if size(axis) > 1)


def replicate(x: jax.Array, *axes: str) -> jax.Array:
    """x, which is equal on all devices of the axes and is used differently by each."""
    axes = divided(*axes)
    return _replicate(x, axes) if axes else x


def all_reduce(x: jax.Array, *axes: str) -> jax.Array:
    """The sum over the axes, equal on all of their devices, and used alike by each."""
    axes = divided(*axes)
    return _all_reduce(x, axes) if axes else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _replicate(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return x


_replicate.defvjp(lambda x, axes: (x, None), lambda axes, _, g: (jax.lax.psum(g, axes),))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _all_reduce(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.psum(x, axes)


_all_reduce.defvjp(lambda x, axes: (jax.lax.psum(x, axes), None), lambda axes, _, g: (g,))


def gather(param: jax.Array, dim: int | None, dtype: jnp.dtype) -> jax.Array:
    """A parameter as one device computes with it: whole along fsdp and sequence, over which each
    device holds a part of dimension `dim` (None: all of it).

    What travels is `dtype`, that of activations; gradients are summed in float32.
    """
    axes = divided(*sharding.TOKEN_AXES)
    parts = divided(*sharding.PARAMETER_AXES)
    if dim is None or not parts:
        return _replicate_float32(param, axes) if axes else param
    others = tuple(axis for axis in axes if axis not in parts)
    return checkpoint_name(_gather(param, dim, jnp.dtype(dtype), parts, others), GATHERED)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _gather(
    param, dim: int, dtype: jnp.dtype, parts: tuple[str, ...], others: tuple[str, ...]
) -> jax.Array:
    return jax.lax.all_gather(param.astype(dtype), parts, axis=dim, tiled=True)


def _gather_fwd(param, dim, dtype, parts, others):
    return _gather(param, dim, dtype, parts, others), jnp.zeros((0,), param.dtype)


def _gather_bwd(dim, dtype, parts, others, like, g):
    part = jax.lax.psum_scatter(g.astype(jnp.float32), parts, scatter_dimension=dim, tiled=True)
    return ((jax.lax.psum(part, others) if others else part).astype(like.dtype),)


_gather.defvjp(_gather_fwd, _gather_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _replicate_float32(param, axes: tuple[str, ...]) -> jax.Array:
    return param


_replicate_float32.defvjp(
    lambda param, axes: (param, None),
    lambda axes, _, g: (jax.lax.psum(g.astype(jnp.float32), axes).astype(g.dtype),),
)


def gathered(module: Module, dtype: Any) -> Module:
    """The module with each of its parameters gathered."""
    if not divided(*sharding.TOKEN_AXES):
        return module
    graphdef, params = nnx.split(module)

    def one(path: tuple, param: jax.Array) -> jax.Array:
        dim = sharding.gathered_dimension(sharding.parameter_name(path))
        return gather(param, dim, jnp.dtype(dtype))

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(one, params))


def exchange_rows(x: jax.Array) -> jax.Array:
    """x [n B, ..., C], this device's C channels of the rows of all n devices over which a parameter
    is divided, to [B, ..., n C]: all channels of this device's rows."""
    parts = divided(*sharding.PARAMETER_AXES)
    if not parts:
        return x
    return jax.lax.all_to_all(x, parts, split_axis=0, concat_axis=x.ndim - 1, tiled=True)


def all_rows(x: jax.Array) -> jax.Array:
    """The rows of all n devices over which a parameter is divided: [B, ...] to [n B, ...]. Has no
    gradient."""
    parts = divided(*sharding.PARAMETER_AXES)
    if not parts:
        return x
    return jax.lax.all_gather(jax.lax.stop_gradient(x), parts, axis=0, tiled=True)


def whole_vocabulary(logits: jax.Array) -> jax.Array:
    """Logits [..., V] of which each device over tensor has a part, whole. Has no gradient."""
    if size("tensor") == 1:
        return logits
    logits = jax.lax.stop_gradient(logits)
    return jax.lax.all_gather(logits, "tensor", axis=logits.ndim - 1, tiled=True)


def largest(x: jax.Array, axis: str) -> jax.Array:
    """The largest over the axis. Has no gradient."""
    return jax.lax.pmax(jax.lax.stop_gradient(x), axis) if size(axis) > 1 else x


def first_token(part: int) -> jax.Array | int:
    """Index in the whole sequence of the first of this device's `part` tokens."""
    return jax.lax.axis_index("sequence") * part if size("sequence") > 1 else 0


def local_rows(index: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """Indices into a dimension over tensor, such as the vocabulary, of which a device has `rows`:
    (the index in its part, whether it lies there; where it does not, the former is any)."""
    local = index
    if size("tensor") > 1:
        local = index - jax.lax.axis_index("tensor") * rows
    here = (local >= 0) & (local < rows)
    return jnp.clip(local, 0, rows - 1), here
