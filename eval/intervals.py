# SPDX-License-Identifier: Apache-2.0
"""Means with confidence intervals, over documents or over seeds.

    over_documents(nats_UK, tokens_UK)       mean loss of each bucket
    change(nats_U2, tokens_U2)               from one bucket to another, on the same documents
    t_interval(accuracies)                   over a few seeds

A mean over tokens of documents is a ratio of two sums, so the bootstrap draws whole documents (or
groups of them, such as the pieces of one book) with replacement and takes the ratio of each draw.
It is too narrow for fewer than about ten of them (FEW): then Student's interval of their own means
is taken, which knows how few it has.

Legend: U documents or pieces, K buckets, S draws, G groups.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from recurrentgemma.errors import UserError

LEVEL = 0.95
DRAWS = 2000
BLOCK = 2**22  # numbers of a bootstrap that are held at a time
FEW = 10  # documents that a bootstrap is too narrow for


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval, which are nan where one value alone is
    known."""

    mean: float
    low: float
    high: float
    count: int  # of what it is over


def t_interval(values: Sequence[float] | np.ndarray, *, level: float = LEVEL) -> Interval:
    """Student's interval of the mean of independent values.

    Raises UserError: there is none.
    """
    array = np.asarray(values, np.float64)
    if array.size < 1:
        raise UserError("an interval over no values: expected one or more")
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, float("nan"), float("nan"), 1)
    error = float(array.std(ddof=1)) / array.size**0.5
    half = float(stdtrit(array.size - 1, 0.5 + level / 2)) * error
    return Interval(mean, mean - half, mean + half, array.size)


def t_intervals(
    sums_UK: np.ndarray,
    counts_UK: np.ndarray,
    *,
    groups_U: np.ndarray | None = None,
    level: float = LEVEL,
) -> list[Interval]:
    """Student's interval of each bucket: every group's own mean counts alike."""
    sums_GK, counts_GK = (_grouped(x, groups_U) for x in (sums_UK, counts_UK))
    intervals = []
    for sums_G, counts_G in zip(sums_GK.T, counts_GK.T, strict=True):
        known_G = counts_G > 0
        intervals.append(
            t_interval(sums_G[known_G] / counts_G[known_G], level=level)
            if known_G.any()
            else _NOTHING
        )
    return intervals


def bootstrap(
    sums_UK: np.ndarray,
    counts_UK: np.ndarray,
    *,
    groups_U: np.ndarray | None = None,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Interval]:
    """Of each bucket, the sum of all sums over that of all counts, and its percentile interval.

    groups_U: which documents are drawn together; by default each on its own. Buckets without a
    count have nan.
    """
    ratios_SK, ratio_K, counts_K = _ratios(sums_UK, counts_UK, groups_U, draws, seed)
    return _intervals(ratios_SK, ratio_K, counts_K, level)


def over_documents(
    sums_UK: np.ndarray, counts_UK: np.ndarray, *, groups_U: np.ndarray | None = None
) -> list[Interval]:
    """bootstrap of FEW groups or more, t_intervals of fewer; `method` says which in words."""
    few = len(_grouped(sums_UK, groups_U)) < FEW
    return (t_intervals if few else bootstrap)(sums_UK, counts_UK, groups_U=groups_U)


def change(
    sums_U2: np.ndarray, counts_U2: np.ndarray, *, groups_U: np.ndarray | None = None
) -> Interval:
    """The second bucket's ratio less the first one's, on the same documents: what these have in
    common cancels. Groups without both are left out; over few of them as t_interval."""
    sums_G2, counts_G2 = (_grouped(x, groups_U) for x in (sums_U2, counts_U2))
    both_G = (counts_G2 > 0).all(1)
    sums_G2, counts_G2 = sums_G2[both_G], counts_G2[both_G]
    if not len(sums_G2):
        return _NOTHING
    if len(sums_G2) < FEW:
        return t_interval(np.diff(sums_G2 / counts_G2, axis=1)[:, 0])
    ratios_S2, ratio_2, counts_2 = _ratios(sums_G2, counts_G2, None, DRAWS, 0)
    changes_S1 = np.diff(ratios_S2, axis=1)
    return _intervals(changes_S1, np.diff(ratio_2), counts_2[1:], LEVEL)[0]


def method(groups: int, what: str = "documents") -> str:
    """In words, of over_documents and change. what: of which there are so many, a plural."""
    if groups < 2:
        return f"no intervals: they need two {what} or more"
    kind = "Student's t" if groups < FEW else "bootstrap"
    return f"{LEVEL:.0%} intervals, {kind} over {groups:,} {what}"


_NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0)


def _ratios(
    sums_UK: np.ndarray,
    counts_UK: np.ndarray,
    groups_U: np.ndarray | None,
    draws: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every draw, of all documents, and how many groups each bucket has."""
    sums_GK = _grouped(sums_UK, groups_U)
    counts_GK = _grouped(counts_UK, groups_U).astype(np.float64)
    if len(sums_GK) < 1:
        raise UserError("an interval over no documents: expected one or more")
    random = np.random.default_rng(seed)
    groups = len(sums_GK)
    share_G, block = np.full(groups, 1 / groups), max(BLOCK // groups, 1)
    blocks = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(0, draws, block):
            times_SG = random.multinomial(groups, share_G, size=min(block, draws - start))
            blocks.append((times_SG @ sums_GK) / (times_SG @ counts_GK))
        ratio_K = sums_GK.sum(0) / counts_GK.sum(0)
    ratios_SK = np.concatenate(blocks)
    return ratios_SK, ratio_K, (counts_GK > 0).sum(0)


def _intervals(
    ratios_SK: np.ndarray, ratio_K: np.ndarray, counts_K: np.ndarray, level: float
) -> list[Interval]:
    ends = [(1 - level) / 2, (1 + level) / 2]
    intervals = []
    for ratios_S, ratio, count in zip(
        ratios_SK.T, ratio_K.tolist(), counts_K.tolist(), strict=True
    ):
        known_S = ratios_S[np.isfinite(ratios_S)]  # a draw may lack every document of a bucket
        if count < 2 or not len(known_S):
            intervals.append(Interval(ratio, float("nan"), float("nan"), count))
            continue
        low, high = np.quantile(known_S, ends).tolist()
        intervals.append(Interval(ratio, low, high, count))
    return intervals


def _grouped(values_UK: np.ndarray, groups_U: np.ndarray | None) -> np.ndarray:
    """Summed up by group."""
    if groups_U is None:
        return np.asarray(values_UK)
    names, index_U = np.unique(groups_U, return_inverse=True)
    grouped = np.zeros((len(names), values_UK.shape[1]), np.asarray(values_UK).dtype)
    np.add.at(grouped, index_U, values_UK)
    return grouped
