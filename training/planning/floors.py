# SPDX-License-Identifier: Apache-2.0
"""What each figure of a plan cannot be below, or differ from. A figure that does is an error of
ours: of the reader of the program (hlo.py, products.py), of the formulas (costs.py), or a policy
that does not do what it says.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from recurrentgemma import sharding

TOLERANCE = 0.02


class PlanError(AssertionError):
    """A plan that contradicts itself: a bug of this project."""


def check_products(counted: float, repeated: float, flops: Mapping[str, float]) -> None:
    """Raises PlanError: the FLOPs of the program's matrix products are not those of the formula.
    They may be more by those that the compiler repeats, and less where the formula leaves that open
    (products of few rows become sums)."""
    formula = flops.get("products", flops["per_device"])
    above = counted > (1 + TOLERANCE) * formula + repeated
    if above or ("products" in flops and counted < (1 - TOLERANCE) * formula):
        raise PlanError(
            f"the program's matrix products take {counted:.4e} FLOPs ({repeated:.4e} of them "
            f"repeated by the compiler) and the formula says {formula:.4e}: "
            f"{100 * (counted / formula - 1):+.1f}%"
        )


def check_floor(figure: str, counted: float, floor: float) -> None:
    """Raises PlanError: a figure is below its floor."""
    if counted < (1 - TOLERANCE) * floor:
        raise PlanError(f"{figure}: counted {counted:.4e}, which is below its floor {floor:.4e}")


def sent_over_parameters(collectives: Mapping[str, Mapping[str, float]]) -> float:
    """Bytes that a device sends over the axes that divide parameters."""
    return sum(
        kind["bytes"]
        for name, kind in collectives.items()
        if set(name.split(" over ")[1].split(",")) & set(sharding.PARAMETER_AXES)
    )


def exchange_floor(params: Any, mesh: Mapping[str, int], dtype: str) -> float:
    """Bytes that a device must send in a training step for the parameters that fsdp and sequence
    divide: each is gathered for the forward pass and for the backward pass in `dtype`, and its
    gradient scattered once in float32, by rings.

    params: shapes with shardings.
    """
    parts = math.prod(mesh[axis] for axis in sharding.PARAMETER_AXES)
    sent = 0.0
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        if sharding.gathered_dimension(sharding.parameter_name(path)) is not None:
            part = math.prod(x.sharding.shard_shape(x.shape))
            sent += part * (parts - 1) * (2 * jnp.dtype(dtype).itemsize + 4)
    return sent
