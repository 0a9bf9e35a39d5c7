# SPDX-License-Identifier: Apache-2.0
"""From the runs of agents to the paper's numbers: means of the last measurements, and curves."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.intervals import Interval, t_interval
from training.recipes import findings
from training.recipes.experiment import Findings
from training.recipes.findings import Arms, as_numbers

NAN = float("nan")
LAST = 0.05  # of a run, whose mean is its end (the paper's figure 6)
NAMES = {
    "return": "return of an episode",
    "pca_rank": "actor's PCA rank (99%)",
    "pre_activation_norm": "norm of the last pre-activation",
    "dead": "dead units of the last layer",
    "excess_ratio": "excess ratio",
    "policy_variance": "variance of the policy over states",
    "capacity_actor": "capacity loss of the actor",
    "critic_pca_rank": "critic's PCA rank (99%)",
}


def at_the_end(cell: Mapping[str, Any], name: str) -> float:
    """The mean over the last measurements that have the number; NaN where none has it."""
    values = [value for value in cell["measured"][name] if value is not None]
    count = max(1, round(LAST * len(cell["measured"][name])))
    return float(np.mean(values[-count:])) if values else NAN


def ends(cells: Sequence[Mapping[str, Any]], name: str) -> Interval:
    """Over the seeds that have the number."""
    values = [value for value in (at_the_end(cell, name) for cell in cells) if value == value]
    return t_interval(values) if values else Interval(NAN, NAN, NAN, 0)


def conclude_agents(arms: Arms) -> Findings:
    """A table of every number that was measured at the end of each arm, and curves of them."""
    names = [name for name in NAMES if name in next(iter(arms.values()))[0]["measured"]]
    rows = {arm: {name: ends(cells, name) for name in names} for arm, cells in arms.items()}
    words = "; ".join(
        f"{arm}: return {of['return'].mean:.3g}, rank {of['pca_rank'].mean:.3g}, norm "
        f"{of['pre_activation_norm'].mean:.3g}, dead {of['dead'].mean:.3g}, excess ratio "
        f"{of['excess_ratio'].mean:.3g}"
        for arm, of in rows.items()
    )
    return Findings(
        f"means of the last {LAST:.0%} of the measurements. {words}.",
        {"ends": {arm: {name: as_numbers(one) for name, one in of.items()}
                  for arm, of in rows.items()}},
        [findings.interval_table("At the end of training", "arm", rows)],
        {name: curves(arms, name, title=NAMES[name], xlabel="environment steps") for name in names},
    )  # fmt: skip


def curves(arms: Arms, name: str, *, title: str, xlabel: str) -> Callable[[Path], None]:
    """What draws a number of every arm against the steps; what is not there is left out."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for arm, cells in arms.items():
        values_SM = np.array([cell["measured"][name] for cell in cells], np.float64)
        shown[arm] = [{"y": _filled(row)} for row in values_SM]
    first = next(iter(arms.values()))[0]
    return findings.plot(
        *(shown, "y"),
        title=title,
        xlabel=xlabel,
        ylabel=title,
        scale=first["steps"] / len(first["measured"][name]),
    )


def _filled(values_M: np.ndarray) -> list[float]:
    """Where a number is missing (no ratio below the clip, no finished episode), the one before it;
    at the beginning, the first that is there."""
    known = np.flatnonzero(~np.isnan(values_M))
    if not known.size:
        return [0.0] * len(values_M)
    places = np.searchsorted(known, np.arange(len(values_M)), side="right") - 1
    return values_M[known[np.maximum(places, 0)]].tolist()
