# SPDX-License-Identifier: Apache-2.0
"""AppleRetrieval: what is forgotten by how far the apple is and how alike the phases look, and
which retention method brings it back, each with its weight swept.

Measured of every run: success by update; P(correct in FAR), whose least value says what was
forgotten; forward transfer, (AUC - AUC of scratch) / (1 - AUC of scratch) of the success curve
(paper, table 6). A method's weight is the one with the highest mean AUC, which these same seeds
chose: the sweep is in the numbers.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from eval.intervals import Interval, t_interval
from training.recipes import findings
from training.recipes.experiment import Cell, Experiment, Findings
from training.recipes.findings import Arms, as_numbers, values
from training.recipes.forgetting.apples import CLOSE, FAR, Walk, retrieve
from training.recipes.side_by_side import join, numbers_of, programs, seeds_of, split

SHIFTS = (0.1, 0.25, 0.5, 1.0)
APPLES = (10, 20, 30)
WEIGHTS = (1.0, 10.0, 100.0, 1000.0)
METHODS = ("bc", "ks", "ewc", "l2")
SHOWN = ("fine-tuning", *METHODS)
AT_ONCE = 64  # cells of a program: their walkers stay in the cache


def apple_arms(
    *, shifts: Sequence[float], apples: Sequence[int], weights: Sequence[float], **smaller: Any
) -> dict[str, Walk]:
    """Every c x M x {scratch, fine-tuning, each method with each weight}."""
    arms = {}
    for c in shifts:
        for apple in apples:
            walk = Walk(c=c, apple=float(apple), **smaller)
            where = f"c {c:g}, M {apple}"
            arms[f"{where}/scratch"] = dataclasses.replace(walk, taught=False)
            arms[f"{where}/fine-tuning"] = walk
            for method in METHODS:
                for weight in weights:
                    held = dataclasses.replace(walk, **{method: weight})
                    arms[f"{where}/{method} {weight:g}"] = held
    return arms


def measure(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The curves of each cell, many at a time."""
    for group in programs(cells):
        structure = split(group[0].choices)[0]

        def run(numbers: Any, seed: Any, structure: Walk = structure) -> dict[str, jax.Array]:
            return retrieve(join(structure, numbers), jax.random.key(seed))

        program = jax.jit(jax.vmap(run))
        for first in range(0, len(group), AT_ONCE):
            part = group[first : first + AT_ONCE]
            filled = [*part, *[part[-1]] * (min(AT_ONCE, len(group)) - len(part))]
            curves = jax.device_get(program(numbers_of(filled), seeds_of(filled)))
            for number, cell in enumerate(part):
                yield cell, {name: of_all[number].tolist() for name, of_all in curves.items()}


def conclude_first(arms: Arms) -> Findings:
    """How much higher the success curve lies with the best method than with fine-tuning alone, seed
    by seed, where the known phase is needed first and where it is needed last."""
    places = list(dict.fromkeys(arm.split("/")[0] for arm in arms))
    rows, gaps, kept = {}, {}, {}
    for place in places:
        best = _best(arms, place)
        auc = {name: values(arms[arm], "success").mean(1) for name, arm in best.items()}
        rows[place] = {name: t_interval(one) for name, one in auc.items()}
        gaps[place] = {name: t_interval(auc[name] - auc["fine-tuning"]) for name in METHODS}
        alone = arms[best["fine-tuning"]]
        phase = "close" if alone[0]["choices"]["known"] == CLOSE else "far"
        least = values(alone, phase).min(1)
        kept[place] = {
            "before": t_interval(values(alone, "taught")),
            "fine-tuning": t_interval(least),
        }
    largest = {place: max(of.values(), key=lambda one: one.mean) for place, of in gaps.items()}
    words = "; ".join(
        f"{place}: {kept[place]['before'].mean:.2f} of the known phase before, at least "
        f"{kept[place]['fine-tuning'].mean:.2f} while fine-tuned; the best method adds "
        f"{gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}) to the success curve's mean"
        for place, gap in largest.items()
    )
    return Findings(
        f"{words}.",
        {
            "auc": {p: {n: as_numbers(i) for n, i in of.items()} for p, of in rows.items()},
            "gap": {p: {n: as_numbers(i) for n, i in of.items()} for p, of in gaps.items()},
            "kept": {p: {n: as_numbers(i) for n, i in of.items()} for p, of in kept.items()},
        },
        [
            findings.interval_table("Mean of the success curve, best weight", "known", rows),
            findings.interval_table("Less fine-tuning's, by seed", "known", gaps),
            findings.interval_table("P(correct) in the known phase, least", "known", kept),
        ],
        {
            "gap": findings.bar_plot(
                {f"{place}, {name}": one for place, of in gaps.items() for name, one in of.items()},
                title="What retention adds to the mean of the success curve",
                ylabel="share of episodes",
            )
        },
    )


def conclude(arms: Arms) -> Findings:
    """Tables over c x M, and curves of the hardest."""
    places = list(dict.fromkeys(arm.split("/")[0] for arm in arms))
    rows: dict[str, dict[str, Interval]] = {}
    forgotten: dict[str, dict[str, Interval]] = {}
    chosen: dict[str, dict[str, str]] = {}
    numbers: dict[str, Any] = {}
    for place in places:
        scratch = arms[f"{place}/scratch"]
        best = _best(arms, place)
        chosen[place] = {name: arm.split("/")[1] for name, arm in best.items()}
        rows[place] = {"scratch": t_interval(_last(scratch))}
        rows[place] |= {name: t_interval(_last(arms[arm])) for name, arm in best.items()}
        forgotten[place] = {
            "before": t_interval(values(arms[best["fine-tuning"]], "taught")),
            **{name: t_interval(_least_far(arms[arm])) for name, arm in best.items()},
        }
        numbers[place] = {
            name: {
                "success": as_numbers(rows[place][name]),
                "least_far": as_numbers(forgotten[place][name]),
                "forward_transfer": as_numbers(t_interval(_transfer(arms[arm], scratch))),
            }
            for name, arm in best.items()
        }
    sweep = {
        arm: as_numbers(t_interval(values(cells, "success").mean(1))) for arm, cells in arms.items()
    }
    hardest = max(places, key=lambda place: (_apple(place), -_shift(place)))
    shown = {f"{name} ({chosen[hardest][name]})" if name in METHODS else name: arms[arm]
             for name, arm in _best(arms, hardest).items()}  # fmt: skip
    walk = next(iter(arms.values()))[0]["choices"]
    scale = walk["updates"] / walk["measured"]
    drawn = partial(findings.plot, shown, xlabel="update", scale=scale)
    return Findings(
        _verdict(places, rows, forgotten, hardest),
        {"by_place": numbers, "weights": chosen, "auc": sweep},
        [
            findings.interval_table("Success at the end, best weight", "c, M", rows),
            findings.interval_table("Least P(correct in FAR), best weight", "c, M", forgotten),
        ],
        {
            "success": drawn("success", title=f"Success, {hardest}", ylabel="share of episodes"),
            "far": drawn(
                "far", title=f"What is left of FAR, {hardest}", ylabel="P(correct direction)"
            ),
        },
    )


def _verdict(
    places: Sequence[str],
    rows: Mapping[str, Mapping[str, Interval]],
    forgotten: Mapping[str, Mapping[str, Interval]],
    hardest: str,
) -> str:
    lost = {
        place: forgotten[place]["before"].mean - forgotten[place]["fine-tuning"].mean
        for place in places
    }
    shifts = sorted({_shift(place) for place in places})
    apples = sorted({_apple(place) for place in places})
    by_shift = [np.mean([lost[p] for p in places if _shift(p) == c]) for c in shifts]
    by_apple = [np.mean([lost[p] for p in places if _apple(p) == m]) for m in apples]
    grows = all(a >= b for a, b in itertools.pairwise(by_shift))
    further = all(a <= b for a, b in itertools.pairwise(by_apple))
    ends = ", ".join(f"{name} {rows[hardest][name].mean:.2f}" for name in ("scratch", *SHOWN))
    told = ", ".join(f"{x:.2f}" for x in by_shift), ", ".join(f"{x:.2f}" for x in by_apple)
    return (
        f"of P(correct in FAR) fine-tuning loses {told[0]} at c = "
        f"{', '.join(f'{c:g}' for c in shifts)} ({'more' if grows else 'not always more'} with "
        f"smaller c) and {told[1]} at M = {', '.join(map(str, apples))} "
        f"({'more' if further else 'not always more'} with M). Success at the end, {hardest}: "
        f"{ends}."
    )


def _best(arms: Arms, place: str) -> dict[str, str]:
    """Method -> its arm with the highest mean AUC."""
    best = {"fine-tuning": f"{place}/fine-tuning"}
    for method in METHODS:
        swept = [arm for arm in arms if arm.startswith(f"{place}/{method} ")]
        best[method] = max(swept, key=lambda arm: values(arms[arm], "success").mean())
    return best


def _last(cells: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return values(cells, "success")[:, -1]


def _least_far(cells: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return values(cells, "far").min(1)


def _transfer(
    cells: Sequence[Mapping[str, Any]], scratch: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """Of each seed, against the mean of all that began from zero."""
    alone = values(scratch, "success").mean()
    return (values(cells, "success").mean(1) - alone) / (1 - alone)


def _shift(place: str) -> float:
    return float(place.split(",")[0].split()[1])


def _apple(place: str) -> int:
    return int(place.split()[-1])


APPLES_STUDY = Experiment(
    name="apples",
    question="does forgetting grow with M and with small c, and which method brings FAR back?",
    cost="about 40 minutes, an estimate",
    arms=apple_arms(shifts=SHIFTS, apples=APPLES, weights=WEIGHTS),
    measure=measure,
    conclude=conclude,
    seeds=20,
)


def first_arms(*, shifts: Sequence[float], apple: int, **smaller: Any) -> dict[str, Walk]:
    """The known phase needed first, and last, at these c; methods and weights as in `apples`."""
    arms = {}
    for known, when in ((CLOSE, "first"), (FAR, "last")):
        of_phase = apple_arms(
            shifts=shifts, apples=(apple,), weights=WEIGHTS, known=known, **smaller
        )
        for name, walk in of_phase.items():
            place, _, method = name.partition("/")
            if method != "scratch":
                arms[f"needed {when}, {place.split(',')[0]}/{method}"] = walk
    return arms


APPLES_FIRST = Experiment(
    name="apples-first",
    question="is there anything to retain where the known phase is needed first?",
    cost="13 minutes",
    arms=first_arms(shifts=(0.1, 0.5), apple=30),
    measure=measure,
    conclude=conclude_first,
    seeds=20,
)
