# SPDX-License-Identifier: Apache-2.0
"""All that is measured of a Griffin on a batch as one program, on one device or a mesh, and the
names under which it is logged.

    blocks.3/pca_rank            of a block; layers.py has all of them
    final/effective_rank         of the hidden state after the final norm
    gradients/negative_share     how often one row's gradient is against another's
    weight_norm/blocks.3/mlp_block/ffw_up/weight
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from eval.diagnostics.curvature import cosines, kernel_rank, negative_share
from eval.diagnostics.interference import row_products
from eval.diagnostics.layers import Moments, add_moments, measures
from eval.diagnostics.representation import norm, update_ratio
from recurrentgemma import sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch
from recurrentgemma.params import by_path, is_stacked, unstack
from recurrentgemma.sharded import on_mesh

Numbers = dict[str, float]


def reader(
    graphdef: nnx.GraphDef[Griffin], *, mesh: Mesh | None, rows: int
) -> Callable[[Any, Any, Moments, Batch], tuple[Moments, jax.Array | None]]:
    """(params, frozen, moments, batch) -> the moments with that batch, and the inner products of
    the gradients of its first rows; None if rows is 0. To be jitted. On a mesh `rows` are of each
    device, and parameters and batch lie as those of a training step."""

    def read(
        params: Any, frozen: Any, moments: Moments, batch: Batch
    ) -> tuple[Moments, jax.Array | None]:
        model = nnx.merge(graphdef, params, *([frozen] if frozen else []))
        batch = Batch(*map(jnp.asarray, batch))
        moments, last_BTD = add_moments(model, moments, batch)
        return moments, row_products(model, last_BTD, batch, rows) if rows else None

    if mesh is None:
        return read

    def over_mesh(params: Any, frozen: Any, moments: Moments, batch: Batch) -> Any:
        in_specs = (sharding.specs(params), sharding.specs(frozen), P(), sharding.BATCH)
        return on_mesh(mesh, read, in_specs, P())(params, frozen, moments, batch)

    return over_mesh


def chosen(moments: Moments, layers: Sequence[int]) -> Moments:
    """Of these layers alone.

    Raises UserError: the model has no such layer, or it is named twice.
    """
    count = len(moments.layers)
    for number, layer in enumerate(layers):
        if not 0 <= layer < count:
            raise UserError(f"layer {layer}: the model has layers 0 to {count - 1}")
        if layer in layers[:number]:
            raise UserError(f"layer {layer} is named twice: name it once")
    return moments._replace(layers=tuple(moments.layers[layer] for layer in layers))


def of_moments(moments: Moments, layers: Sequence[int]) -> dict[str, jax.Array]:
    """All measures of the moments of these layers, by name. To be jitted."""
    places = [*(f"blocks.{layer}" for layer in layers), "final"]
    return {
        f"{place}/{name}": value
        for place, of_place in zip(places, measures(moments), strict=True)
        for name, value in of_place.items()
    }


def of_gradients(products_RR: jax.Array) -> dict[str, jax.Array]:
    """How the rows' gradients agree, by name."""
    return {
        "gradients/negative_share": negative_share(cosines(products_RR)),
        "gradients/effective_rank": kernel_rank(products_RR),
        "gradients/norm": jnp.mean(jnp.sqrt(jnp.diagonal(products_RR))),
    }


def matrices(params: Any, one: Callable[..., jax.Array], *others: Any) -> dict[str, jax.Array]:
    """one(matrix, ...) of every matrix by path, for every layer where those are stacked; vectors
    and biases are left out. To be jitted; see by_name."""
    trees = [by_path(params), *map(by_path, others)]
    return {
        path: jax.vmap(one)(*(tree[path] for tree in trees))
        if is_stacked(path)
        else one(*(tree[path] for tree in trees))
        for path, leaf in trees[0].items()
        if leaf.ndim - is_stacked(path) > 1 and path.rsplit("/", 1)[-1] != "b"  # the gates' biases
    }


def weight_norms(params: Any) -> dict[str, jax.Array]:
    """The L2 norm of every matrix, by path."""
    return matrices(params, norm)


def update_ratios(params: Any, updates: Any) -> dict[str, jax.Array]:
    """|update| / |matrix| of every matrix, by path: the effective learning rates."""
    return matrices(params, update_ratio, updates)


def by_name(config: GriffinConfig, label: str, values: dict[str, jax.Array]) -> Numbers:
    """What `matrices` gives, as numbers by canonical name."""
    flat = unstack(config, jax.device_get(values))
    return {f"{label}/{name}": float(value) for name, value in flat.items()}


def as_numbers(values: dict[str, jax.Array]) -> Numbers:
    """Scalars as Python's numbers, fetched at once."""
    return {name: float(value) for name, value in jax.device_get(values).items()}
