# SPDX-License-Identifier: Apache-2.0
"""Returns of several tasks and seeds as one number with an interval: the interquartile mean and its
stratified bootstrap (Agarwal et al., 2021, "Deep RL at the Edge of the Statistical Precipice").

Legend: K tasks, S seeds, R draws.
"""

from collections.abc import Sequence

import numpy as np

from eval.intervals import DRAWS, LEVEL, Interval
from recurrentgemma.errors import UserError


def interquartile_mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """The mean without the lowest and the highest quarter; where these are no whole number of
    values, the outermost that are left count in part."""
    array = np.sort(np.asarray(values, np.float64), axis=axis)
    if axis is None:
        array, axis = array.ravel(), 0
    count = array.shape[axis]
    # value i fills [i, i + 1] of the order; what of it lies within the middle half is its weight
    edges = np.arange(count + 1)
    middle = np.clip(edges, count / 4, 3 * count / 4)
    return np.moveaxis(array, axis, -1) @ np.diff(middle) / (count / 2)


def stratified_bootstrap(
    values_KS: np.ndarray | Sequence[Sequence[float]],
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """The interquartile mean over all tasks and seeds; its interval draws seeds anew within each
    task. `count` is of values. With one seed of each task there is no interval.

    Raises UserError: there is no value, or one that is not finite.
    """
    array_KS = np.asarray(values_KS, np.float64)
    if array_KS.ndim != 2 or not array_KS.size:
        raise UserError(f"returns of shape {array_KS.shape}: expected [tasks, seeds], not empty")
    if not np.isfinite(array_KS).all():
        raise UserError("a return that is not finite: leave out runs that finished no episode")
    mean, (tasks, seeds) = float(interquartile_mean(array_KS)), array_KS.shape
    if seeds == 1:
        return Interval(mean, float("nan"), float("nan"), array_KS.size)
    chosen_RKS = np.random.default_rng(seed).integers(0, seeds, (draws, tasks, seeds))
    drawn_RKS = np.take_along_axis(array_KS[None], chosen_RKS, 2)
    means_R = interquartile_mean(drawn_RKS.reshape(draws, -1), axis=1)
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), array_KS.size)
