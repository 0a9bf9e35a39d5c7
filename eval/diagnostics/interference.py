# SPDX-License-Identifier: Apache-2.0
"""How the gradients of a Griffin's rows agree: of its last block's parameters, row by row.

The rows before it are read once, so that only one block is differentiated. It holds R times that
block's parameters: with 16 rows and 16 layers or more, less than a gradient of the whole model. On
a mesh (inside of jax.shard_map) every device has the same result. Shape letters:
recurrentgemma/config.py; R rows whose gradients are taken.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from recurrentgemma import parallel, sharding
from recurrentgemma.blocks import ResidualBlock
from recurrentgemma.chunk import locate
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, hidden_loss


def row_products(model: Griffin, last_BTD: jax.Array, batch: Batch, rows: int) -> jax.Array:
    """<g_i, g_j> [R, R] of the mean loss of the first rows (on a mesh: of each device's).

    last_BTD: the last block's input, as layers.add_moments gives it.
    """
    config = model.config
    block = parallel.gathered(last_block(model), last_BTD.dtype)
    final_norm = parallel.gathered(model.final_norm, config.dtype)
    graphdef, params = nnx.split(block)

    def row_loss(params: Any, x_1TD: jax.Array, row: Batch) -> jax.Array:
        shape, window = row.tokens_BT.shape, config.attention_window
        chunk = locate(None, shape, row.positions_BT, None, window)
        x_1TD, _ = nnx.merge(graphdef, params)(x_1TD, None, chunk)
        counted = parallel.all_reduce(jnp.sum(row.weights_BT), "sequence")
        weights_1T = row.weights_BT / jnp.maximum(counted, 1)
        return hidden_loss(model, final_norm(x_1TD), row.targets_BT, weights_1T)[0]

    def gradient(given: tuple[jax.Array, Batch]) -> Any:
        x_1TD, row = jax.tree.map(lambda x: x[None], given)
        grads = jax.grad(row_loss)(params, x_1TD, row)
        if axis := parallel.axis("sequence"):  # of this device's tokens, so far
            grads = jax.lax.psum(grads, axis)
        return grads

    taken = jax.tree.map(lambda x: x[:rows], (last_BTD, Batch(*map(jnp.asarray, batch))))
    return _products(jax.lax.map(gradient, taken))


def _products(grads: Any) -> jax.Array:
    """Of the rows of all devices, and all their parts of the parameters."""
    axes = parallel.divided("data", "fsdp")
    tensor = parallel.axis("tensor")

    def one(path: tuple, leaf: jax.Array) -> jax.Array:
        flat_RP = leaf.reshape(leaf.shape[0], -1).astype(jnp.float32)
        if axes:
            flat_RP = _exchanged(flat_RP, axes)
        products_RR = jnp.matmul(flat_RP, flat_RP.T, precision=jax.lax.Precision.HIGHEST)
        name = sharding.parameter_name(path)
        on = [sharding.MESH_AXES[axis] for axis in sharding.logical_axes(name)]
        divided = axes + ((tensor,) if tensor and tensor in on else ())
        return jax.lax.psum(products_RR, divided) if divided else products_RR

    named = jax.tree_util.tree_flatten_with_path(grads)[0]
    first, *others = [one(path, leaf) for path, leaf in named]
    return sum(others, start=first)


def _exchanged(flat_RP: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """This device's rows to its equal part of the parameters, of the rows of all devices."""
    devices = math.prod(map(parallel.size, axes))
    rows, size = flat_RP.shape
    flat_RP = jnp.pad(flat_RP, ((0, 0), (0, -size % devices)))
    parts = flat_RP.reshape(rows, devices, -1)
    return jax.lax.all_to_all(parts, axes, split_axis=1, concat_axis=0, tiled=True)[:, 0]


def last_block(model: Griffin) -> ResidualBlock:
    """The last block, out of the stack of its group where layers are scanned."""
    config = model.config
    if not config.scan_layers:
        return model.blocks[-1]
    if len(model.tail):
        return model.tail[-1]
    graphdef, params = nnx.split(model.groups[-1])
    return nnx.merge(graphdef, jax.tree.map(lambda x: x[-1], params))
