# SPDX-License-Identifier: Apache-2.0
"""A Griffin with fewer hidden units in its MLPs: which ones go, and what becomes of the others.

An MLP's output is sum_j h_j down[:, j] + bias. A unit that goes leaves its mean behind:

    bias <- bias + mean_j down[:, j]

so a unit that is zero, or has one value, on all the text is removed exactly, and what another one
is missed by is its variance alone. All layers have one width (GriffinConfig.mlp_width), so a layer
with fewer units that matter keeps some that do not.

Legend: L layers, D width, F units.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.params import Flat
from training.pruning.activity import UnitActivity
from training.pruning.shrink import UNIT_AXES, unit_norms

Criterion = Literal["variation", "magnitude", "random"]
MULTIPLE = 64  # what widths are rounded to: what a matrix unit takes at a time


class Removal(NamedTuple):
    """What is to go. constant_LF: the units that add the same to every token, of which removal is
    exact."""

    width: int
    keep_LF: np.ndarray  # bool; `width` units of each layer
    constant_LF: np.ndarray

    @property
    def is_exact(self) -> bool:
        """Whether only units go that add the same to every token of the text."""
        return bool((self.keep_LF | self.constant_LF).all())


def choose_units(
    config: GriffinConfig,
    flat: Flat,
    activity: UnitActivity,
    *,
    keep: float | None = None,
    criterion: Criterion = "variation",
    multiple: int = MULTIPLE,
    seed: int = 0,
) -> Removal:
    """Which units go, of parameters by canonical name.

    keep: the part of the units that stays, rounded to the nearest multiple; None: all that vary on
      the text in the layer that has most of these, rounded up.
    criterion: what ranks them, after those that are constant. variation: variance of h_j times
      |down[:, j]|^2, the mean squared error of the layer's output without it. magnitude: the norm
      of its weights. random: by the seed.

    Raises UserError: a fraction, or a multiple, that leaves nothing or takes nothing.
    """
    units, width = config.mlp_width, kept_width(config, keep=keep, multiple=multiple)
    down_LF = np.stack(
        [
            np.asarray(_squares(flat[f"blocks.{layer}/mlp_block/ffw_down/weight"]))
            for layer in range(config.num_layers)
        ]
    )
    constant_LF = activity.constant_LF | (down_LF == 0)
    if width is None:
        most = int((~constant_LF).sum(1).max())
        width = max(1, -(-most // multiple)) * multiple
        if width >= units:
            raise UserError(
                f"nothing can be removed exactly: of {units} units a layer uses {most} on this "
                f"text, and widths are multiples of {multiple}; say with --keep how much is to "
                "stay, or train with --prune.penalty first"
            )
    if criterion == "variation":
        score_LF = activity.variance_LF * down_LF
    elif criterion == "magnitude":
        score_LF = np.stack([_norms(flat, layer) for layer in range(config.num_layers)])
    else:
        score_LF = np.random.default_rng(seed).random(constant_LF.shape)
    score_LF = np.where(constant_LF, -1.0, score_LF)
    order_LF = np.argsort(-score_LF, 1, kind="stable")
    keep_LF = np.zeros(constant_LF.shape, bool)
    np.put_along_axis(keep_LF, order_LF[:, :width], True, 1)
    return Removal(width, keep_LF, constant_LF)


def kept_width(config: GriffinConfig, *, keep: float | None, multiple: int) -> int | None:
    """How many units of a layer stay, if a fraction says so: before any text is read.

    Raises UserError: a fraction, or a multiple, that leaves nothing or takes nothing.
    """
    units = config.mlp_width
    if multiple < 1:
        raise UserError(f"multiple={multiple}: expected a whole number of at least 1")
    if keep is None:
        return None
    if not 0 < keep < 1:
        raise UserError(f"keep={keep!r}: expected a fraction between 0 and 1, such as 0.5")
    width = round(keep * units / multiple) * multiple
    if not 0 < width < units:
        raise UserError(
            f"keep={keep} of {units} units is {width} in multiples of {multiple}, which "
            f"{'leaves nothing' if width < 1 else 'removes nothing'}; give another --keep or "
            "a lower --multiple"
        )
    return width


def remove_units(
    config: GriffinConfig, flat: Flat, activity: UnitActivity, removal: Removal
) -> tuple[GriffinConfig, Flat]:
    """The smaller model's config and parameters; those that stay as they are are shared."""
    smaller = dict(flat)
    for layer in range(config.num_layers):
        prefix = f"blocks.{layer}/mlp_block/"
        keep_F = removal.keep_LF[layer]
        mean_F = jnp.asarray(np.where(keep_F, 0, activity.mean_LF[layer]), jnp.float32)
        down_DF, bias = flat[f"{prefix}ffw_down/weight"], flat[f"{prefix}ffw_down/bias"]
        left = (down_DF.astype(jnp.float32) * mean_F[None]).sum(1)
        smaller[f"{prefix}ffw_down/bias"] = (bias.astype(jnp.float32) + left).astype(bias.dtype)
        for name, axis in UNIT_AXES.items():
            array = flat[prefix + name]
            smaller[prefix + name] = jnp.take(array, np.flatnonzero(keep_F), axis % array.ndim)
    return dataclasses.replace(config, mlp_width=removal.width), smaller


def _squares(down_DF: jnp.ndarray) -> jnp.ndarray:
    return jnp.square(down_DF.astype(jnp.float32)).sum(0)


def _norms(flat: Flat, layer: int) -> np.ndarray:
    arrays = {name: flat[f"blocks.{layer}/mlp_block/{name}"] for name in UNIT_AXES}
    return np.asarray(unit_norms(arrays)[0])
