# SPDX-License-Identifier: Apache-2.0
"""Do the codes of hypernetwork adapters compose, and does that hang on the support?

Ours, not the paper's: string tasks (strings.py) for a byte-level Griffin, by three supports of
equal size with the same held-out combinations. Decided before the run: exact matches on held-out
combinations are compared, seed by seed (of a seed the combinations, shots and queries are the same
for every support and method); a difference counts where its 95% interval over seeds leaves out 0.
Rates were chosen on seed 100, spread support, which the study does not have.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eval.intervals import Interval, t_interval
from training.recipes import findings
from training.recipes.experiment import Cell, Experiment, Findings
from training.recipes.findings import Arms, as_numbers, values
from training.recipes.modular.strings import KINDS, connected, support
from training.recipes.modular.strings_learning import METHODS, StringsArm, measured

RIVALS = ("LoRA", "all online")
Difference = tuple[str, str]  # support, method


def measure(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """Seed by seed, so that an unfinished study has all supports of its first seeds."""
    for cell in sorted(cells, key=lambda cell: cell.seed):
        numbers = measured(cell.choices, cell.seed)
        yield cell, numbers | {"connected": connected(support(cell.choices.kind).train_CF)}


def conclude(arms: Arms) -> Findings:
    """Exact matches and bits by support and method, differences, and the verdict."""
    exact = {arm: _of_methods(cells, "exact") for arm, cells in arms.items()}
    bits = {arm: _of_methods(cells, "bits") for arm, cells in arms.items()}
    known = {
        arm: {
            "own code": t_interval(values(cells, "training", "own code", "exact")),
            "code from shots": t_interval(values(cells, "training", "code", "exact")),
        }
        for arm, cells in arms.items()
    }
    differences = compared(arms)
    numbers = {
        "exact": _numbers(exact),
        "bits": _numbers(bits),
        "training_exact": _numbers(known),
        "differences": {name: as_numbers(one) for name, one in differences.items()},
    }
    return Findings(
        _verdict(exact, differences),
        numbers,
        [
            findings.interval_table("Exact matches, held out", "support", exact),
            findings.interval_table("Bits a byte, held out", "support", bits),
            findings.interval_table("Exact matches, training combinations", "support", known),
            findings.interval_table(
                "Differences of exact matches, held out",
                "first less second",
                {name: {"difference": one} for name, one in differences.items()},
            ),
        ],
        {
            "exact": findings.bar_plot(
                {f"{arm}\n{name}": one for arm, of in exact.items() for name, one in of.items()},
                title="Held-out combinations",
                ylabel="exact matches (share)",
            ),
            "bits": findings.bar_plot(
                {f"{arm}\n{name}": one for arm, of in bits.items() for name, one in of.items()},
                title="Held-out combinations",
                ylabel="bits a byte of the answers",
            ),
        },
    )


def compared(arms: Arms) -> dict[str, Interval]:
    """Differences of exact matches on held-out combinations, seed by seed: codes by support, then
    codes and what they are measured against under each support; and whether a rival, too, hangs on
    the support."""
    exact = {
        (arm, method): values(cells, "held_out", method, "exact")
        for arm, cells in arms.items()
        for method in METHODS
    }
    pairs: list[tuple[Difference, Difference]] = []
    for arm in arms:
        if arm != "disconnected" and "disconnected" in arms:
            pairs += [((arm, name), ("disconnected", name)) for name in ("code", *RIVALS)]
    for arm in arms:
        pairs += [((arm, "code"), (arm, rival)) for rival in RIVALS]
        pairs.append(((arm, "code online"), (arm, "all online")))
    return {
        f"{', '.join(first)} - {', '.join(second)}": t_interval(exact[first] - exact[second])
        for first, second in pairs
    }


def _of_methods(cells: Sequence[Mapping[str, Any]], number: str) -> dict[str, Interval]:
    return {name: t_interval(values(cells, "held_out", name, number)) for name in METHODS}


def _numbers(rows: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
    return {arm: {name: as_numbers(one) for name, one in of.items()} for arm, of in rows.items()}


def _verdict(
    exact: Mapping[str, Mapping[str, Interval]], differences: Mapping[str, Interval]
) -> str:
    """Means by support, then every difference with what its interval says."""
    words = [
        f"{arm}: " + ", ".join(f"{name} {one.mean:.2f}" for name, one in of.items())
        for arm, of in exact.items()
    ]
    judged = [
        f"{name} = {one.mean:+.2f} [{one.low:+.2f}, {one.high:+.2f}] ({_judged(one)})"
        for name, one in differences.items()
    ]
    return f"exact matches, held out. {'; '.join(words)}. Differences: {'; '.join(judged)}."


def _judged(difference: Interval) -> str:
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "not told apart"


STRINGS = Experiment(
    name="strings",
    question="a language model's hypernetwork adapters: do codes compose, and by which support?",
    cost="25 CPU minutes, an estimate",
    arms={kind: StringsArm(kind=kind) for kind in KINDS},
    measure=measure,
    conclude=conclude,
)
