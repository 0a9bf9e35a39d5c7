# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on MiniHack's rooms with a cloning gap and with a coverage gap: which way of
retention helps with which.

The paper's claim (2402.02868): KS wins where the copy is imperfect everywhere, and does not where
it never knew CLOSE, since it holds the policy to the copy there, too; BC reads states of FAR alone.
A method's weight is the one with the highest mean AUC of success,
which these same seeds chose; what it gains on fine-tuning is paired by seed, since both begin with
one copy. Forward transfer is (AUC - AUC of scratch) / (1 - AUC of scratch), as in table 6.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from eval.dynamic.retention import Weight
from eval.intervals import Interval, t_interval
from eval.results import Table
from training.recipes import findings
from training.recipes.experiment import Experiment, Findings
from training.recipes.findings import Arms, as_numbers, values
from training.recipes.forgetting.minihack_clone import Method
from training.recipes.forgetting.minihack_run import HackArm, measure_in

GAPS = ("cloning", "coverage")
NONE, SCRATCH = "fine-tuning", "scratch"
METHODS: dict[Method, tuple[float, ...]] = {
    "bc": (0.1, 1.0),
    "ks": (0.1, 0.5),
    "ewc": (10.0, 100.0),
}
KS_DECAY, KS_FLOOR = 0.99, 0.2  # an update of PPO; of the weight that it begins with
COPIES: dict[str, dict[str, int]] = {
    "cloning": {"copied": 1, "updates": 120},
    "coverage": {"copied": 32, "updates": 200},
}


def minihack_arms(
    weights: Mapping[Method, Sequence[float]] = METHODS, **smaller: Any
) -> dict[str, HackArm]:
    """Each gap x {fine-tuning, each method with each weight}, and scratch."""
    arms = {SCRATCH: HackArm(gap="scratch", **smaller)}
    for gap in GAPS:
        copy = {"gap": gap, **COPIES[gap], **smaller}
        arms[f"{gap}/{NONE}"] = HackArm(**copy)
        for method, swept in weights.items():
            for start in swept:
                falls = {"decay": KS_DECAY, "floor": KS_FLOOR * start} if method == "ks" else {}
                weight = Weight(start=start, **falls)
                arms[f"{gap}/{method} {start:g}"] = HackArm(method=method, weight=weight, **copy)
    return arms


class Shown(NamedTuple):
    """Of a gap: the arm of each method's best weight, by name of the method."""

    gap: str
    best: dict[str, str]


def auc(cells: Sequence[Mapping[str, Any]], name: str = "success") -> np.ndarray:
    """The mean of each seed's curve, [seeds]."""
    return values(cells, name).mean(1)


def late(cells: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """The mean of the last quarter of each seed's curve, [seeds]."""
    curve_SM = values(cells, name)
    return curve_SM[:, -max(1, curve_SM.shape[1] // 4) :].mean(1)


def best_of(arms: Arms, gap: str) -> Shown:
    """Each method's weight with the highest mean AUC of success, of those that are there."""
    best = {NONE: f"{gap}/{NONE}"}
    for method in METHODS:
        swept = [arm for arm in arms if arm.startswith(f"{gap}/{method} ")]
        if swept:
            best[method] = max(swept, key=lambda arm: auc(arms[arm]).mean())
    return Shown(gap, best)


def gain(arms: Arms, shown: Shown, method: str) -> Interval:
    """Of the AUC of success, on fine-tuning, paired by seed."""
    return t_interval(auc(arms[shown.best[method]]) - auc(arms[shown.best[NONE]]))


def wins(arms: Arms, shown: Shown, method: str) -> bool:
    """Whether a method gains on fine-tuning, zero outside of the interval (with one seed, at all),
    and no other gains more."""
    gains = {name: gain(arms, shown, name) for name in shown.best if name != NONE}
    most = max(gains.values(), key=lambda one: one.mean)
    own = gains[method]
    return own.mean >= most.mean and (own.mean if np.isnan(own.low) else own.low) > 0


def numbers_of(arms: Arms, arm: str) -> dict[str, Interval]:
    """What the tables have of an arm."""
    cells, scratch = arms[arm], arms[SCRATCH]

    def transfer(name: str) -> Interval:
        alone = auc(scratch, name).mean()
        # From scratch to no failure at all there would be nothing to gain.
        return t_interval((auc(cells, name) - alone) / max(1 - alone, 1e-6))

    return {
        "success": t_interval(late(cells, "success")),
        "AUC of success": t_interval(auc(cells)),
        "from FAR": t_interval(late(cells, "from_far")),
        "least from FAR": t_interval(values(cells, "from_far").min(1)),
        "steps in FAR": t_interval(late(cells, "far")),
        "log p(expert) in FAR": t_interval(late(cells, "far_likelihood")),
        "KL to the copy in FAR": t_interval(late(cells, "far_kl")),
        "transfer": transfer("success"),
        "transfer from FAR": transfer("from_far"),
    }


FIRST = ("success", "AUC of success", "from FAR", "least from FAR")


def conclude(arms: Arms) -> Findings:
    """A table of success and one of what lies behind it, curves, and whether the claim is seen."""
    of_gaps = [best_of(arms, gap) for gap in GAPS]
    rows: dict[str, dict[str, Interval]] = {SCRATCH: numbers_of(arms, SCRATCH)}
    for shown in of_gaps:
        before = [cell["before"] for cell in arms[shown.best[NONE]]]
        rows[f"{shown.gap}/the copy"] = {
            "success": t_interval([one["success"] for one in before]),
            "from FAR": t_interval([one["from_far"] for one in before]),
            "log p(expert) in FAR": t_interval([one["far_likelihood"] for one in before]),
        }
        rows |= {arm: numbers_of(arms, arm) for arm in shown.best.values()}
    trained = {arm: of for arm, of in rows.items() if not arm.endswith("the copy")}
    choices = next(iter(arms.values()))[0]["choices"]["ppo"]
    scale = choices["steps"] / choices["measured"]
    plots = {}
    for shown in of_gaps:
        curves = {arm.partition("/")[2]: arms[arm] for arm in shown.best.values()}
        curves[SCRATCH] = arms[SCRATCH]
        for name, title in (("success", "Success from the start"), ("from_far", "From FAR")):
            plots[f"{shown.gap}_{name}"] = findings.plot(
                *(curves, name),
                title=f"{title}, {shown.gap} gap",
                xlabel="steps",
                ylabel="share of episodes",
                scale=scale,
            )
    return Findings(
        verdict(arms, of_gaps),
        {
            "arms": {arm: {n: as_numbers(i) for n, i in of.items()} for arm, of in rows.items()},
            "weights": {shown.gap: shown.best for shown in of_gaps},
            "conflicts": arms[SCRATCH][0]["conflicts"],
            "gain": {
                shown.gap: {
                    name: as_numbers(gain(arms, shown, name)) for name in shown.best if name != NONE
                }
                for shown in of_gaps
            },
            "auc": {arm: as_numbers(t_interval(auc(cells))) for arm, cells in arms.items()},
        },
        [
            _table("Success, best weight of each method", trained, lambda name: name in FIRST),
            _table("Behind it", trained, lambda name: name not in FIRST),
        ],
        plots,
    )


def _table(
    title: str, rows: Mapping[str, Mapping[str, Interval]], which: Callable[[str], bool]
) -> Table:
    chosen = {arm: {n: one for n, one in of.items() if which(n)} for arm, of in rows.items()}
    return findings.interval_table(title, "gap and method", chosen)


def verdict(arms: Arms, of_gaps: Sequence[Shown]) -> str:
    """In words, whatever was seen."""
    parts, seen = [], {}
    for shown in of_gaps:
        cells = {name: arms[arm] for name, arm in shown.best.items()}
        before = np.mean([cell["before"]["from_far"] for cell in cells[NONE]])
        ends = ", ".join(
            f"{arm.partition('/')[2]} {auc(arms[arm]).mean():.2f}" for arm in shown.best.values()
        )
        least = ", ".join(
            f"{name} {values(of, 'from_far').min(1).mean():.2f}" for name, of in cells.items()
        )
        gained = gain(arms, shown, "ks")
        seen[shown.gap] = wins(arms, shown, "ks")
        range_ = "" if np.isnan(gained.low) else f" ({gained.low:.2f} to {gained.high:.2f})"
        parts.append(
            f"{shown.gap} gap: mean success over training {ends}; KS gains {gained.mean:.2f}"
            f"{range_} on fine-tuning and {'wins' if seen[shown.gap] else 'does not win'}; success "
            f"from FAR was {before:.2f} before and at its least {least}"
        )
    claim = seen["cloning"] and not seen["coverage"]
    return (
        f"KS {'wins' if seen['cloning'] else 'does not win'} with a cloning gap and "
        f"{'wins' if seen['coverage'] else 'does not win'} with a coverage gap, so the claim is "
        f"{'' if claim else 'not '}seen. " + ". ".join(parts) + "."
    )


MINIHACK = Experiment(
    name="minihack",
    question="KS wins with a cloning gap; does it not with a coverage gap?",
    cost="about 70 CPU minutes, an estimate",
    arms=minihack_arms(),
    measure_in=measure_in,
    conclude=conclude,
    seeds=5,
)
