# SPDX-License-Identifier: Apache-2.0
"""From the numbers of the pruning experiments' seeds to tables, plots and verdicts.

Intervals are Student's over seeds.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval import plots
from eval.intervals import t_interval
from eval.results import Table
from training.recipes.experiment import Findings

Numbers = Mapping[str, Sequence[Mapping[str, Any]]]  # arm -> of each seed


def conclude_accuracy(numbers: Numbers) -> Findings:
    """Accuracy against the parameters that are left."""
    families = _families(numbers)
    differences = {
        arm: {family: _advantage(numbers, arm, members) for family, members in families.items()}
        for arm in numbers
        if arm.startswith("DemP")
    }
    columns = ("arm", "accuracy", "low", "high", "units left", "parameters left", "CPU s", "s")
    rows = [[arm, *_interval(cells, "accuracy"), *_means(cells)] for arm, cells in numbers.items()]
    margin_rows = [
        [arm, family, *map(float, gain[:3])]
        for arm, gains in differences.items()
        for family, gain in gains.items()
        if gain is not None
    ]
    return Findings(
        _verdict(differences),
        {
            "by_arm": {
                arm: {"accuracy": list(_interval(cells, "accuracy")), **_left(cells)}
                for arm, cells in numbers.items()
            },
            "gain_over": {
                arm: {family: gain and list(map(float, gain[:3])) for family, gain in gains.items()}
                for arm, gains in differences.items()
            },
        },
        [
            Table("Accuracy and what is left", columns, rows),
            Table(
                "Accuracy of DemP less that of a baseline with as many parameters",
                ("arm", "baseline", "difference", "low", "high"),
                margin_rows,
            ),
        ],
        {
            "accuracy": partial(_draw_accuracy, numbers=numbers, families=families),
            "live_units": partial(_draw_live, numbers=numbers),
        },
    )


def conclude_speed(numbers: Numbers) -> Findings:
    """Seconds of a training, all seeds together, against the dense one's."""
    dense = np.mean([cell["cpu_seconds"] for cell in numbers["dense"]])
    rows = []
    for arm, cells in numbers.items():
        cpu = float(np.mean([cell["cpu_seconds"] for cell in cells]))
        compiling = float(np.mean([cell["compile_seconds"] for cell in cells]))
        wall = float(np.mean([cell["seconds"] for cell in cells]))
        accuracy = _interval(cells, "accuracy")[0]
        rows.append(
            [arm, accuracy, _left(cells)["parameters_left"], wall, compiling, cpu, dense / cpu]
        )
    faster = {row[0]: row[-1] for row in rows}
    summary = ", ".join(f"{arm} {ratio:.2f}x" for arm, ratio in faster.items() if arm != "dense")
    return Findings(
        f"CPU time of the dense training over that of: {summary}; compilation not counted",
        {"speedup": faster},
        [
            Table(
                "Time of all seeds",
                ("arm", "accuracy", "parameters left", "s", "compiling s", "CPU s", "speed-up"),
                rows,
            )
        ],
        {"live_units": partial(_draw_live, numbers=numbers)},
    )


def conclude_revivals(numbers: Numbers) -> Findings:
    """What becomes of units once they are dead."""
    rows, shares = [], {}
    for arm, cells in numbers.items():
        died, revived, again = (
            float(np.mean([cell[name] for cell in cells]))
            for name in ("died", "revived", "died_again")
        )
        shares[arm] = {
            "died": died,
            "revived": revived / died if died else None,
            "died_again": again / revived if revived else None,
        }
        rows.append([arm, died, revived, again, *_interval(cells, "accuracy")])
    summary = "; ".join(
        f"{arm}: of {share['died']:.0f} units that died {share['revived'] or 0:.0%} revived"
        + (f", and {share['died_again']:.0%} of those died again" if share["revived"] else "")
        for arm, share in shares.items()
    )
    columns = ("arm", "units that died", "revived", "died again", "accuracy", "low", "high")
    return Findings(
        summary,
        {"by_arm": shares},
        [Table("Units, means over seeds", columns, rows)],
        {"live_units": partial(_draw_live, numbers=numbers)},
    )


def conclude_language(numbers: Numbers) -> Findings:
    """Bits per byte after the same number of steps."""
    columns = ("way", "bits per byte", "low", "high", "before", "just pruned", "zero units")
    columns += ("MLP units", "parameters", "tokens/s")
    rows, bits = [], {}
    for arm, cells in numbers.items():
        bits[arm] = _interval(cells, "bits_after")
        means = [
            float(np.mean([cell[name] for cell in cells]))
            for name in ("bits_before", "bits_pruned", "zero_units")
        ]
        speed = float(np.median([cell["tokens_per_second"] for cell in cells]))
        rows.append(
            [arm, *bits[arm], *means, cells[0]["mlp_width"], cells[0]["parameters"], round(speed)]
        )
    scratch = [cell["bits_after"] for cell in numbers["small"]]
    gains = {
        arm: t_interval(np.array(scratch) - [cell["bits_after"] for cell in cells])
        for arm, cells in numbers.items()
        if arm not in ("dense", "small")
    }
    summary = "; ".join(
        f"{arm} {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]" for arm, gain in gains.items()
    )
    return Findings(
        "bits per byte that pruning half of the units saves against a model of that size from "
        f"scratch on the same tokens: {summary}; the dense model is at {bits['dense'][0]:.4f}, the "
        f"small one at {bits['small'][0]:.4f}",
        {
            "bits_per_byte": bits,
            "gain_over_small": {arm: list(map(float, gain[:3])) for arm, gain in gains.items()},
        },
        [Table("A Griffin with half of its MLP units", columns, rows)],
        {
            "bits_per_byte": partial(
                plots.bars,
                values={arm: tuple(ends) for arm, ends in bits.items()},
                title="After the same number of steps",
                ylabel="bits per byte",
            )
        },
    )


def _families(numbers: Numbers) -> dict[str, list[str]]:
    """Baseline -> its arms; the dense network is an end of each one's curve."""
    families: dict[str, list[str]] = {}
    for arm in numbers:
        family = arm.rpartition(" ")[0]
        if family and not arm.startswith(("DemP", "no noise", "constant", "warm-up")):
            families.setdefault(family, ["dense"] if "dense" in numbers else []).append(arm)
    return families


def _advantage(numbers: Numbers, arm: str, members: Sequence[str]) -> Any:
    """Of an arm's accuracy over a baseline's at the same number of parameters, between whose arms a
    line is drawn, seed by seed. None where the baseline has no arm that is as small."""
    gains = []
    for s, cell in enumerate(numbers[arm]):
        pairs = sorted(
            (numbers[m][s]["parameters_left"], numbers[m][s]["accuracy"]) for m in members
        )
        left, accuracy = zip(*pairs, strict=True)
        if cell["parameters_left"] < left[0]:
            return None
        gains.append(cell["accuracy"] - float(np.interp(cell["parameters_left"], left, accuracy)))
    return t_interval(gains)


def _verdict(differences: Mapping[str, Mapping[str, Any]]) -> str:
    better, worse, alike = [], [], []
    for arm, gains in differences.items():
        for family, gain in gains.items():
            if gain is None:
                continue
            name = f"{arm} against {family} ({100 * gain.mean:+.2f} points)"
            (better if gain.low > 0 else worse if gain.high < 0 else alike).append(name)
    parts = [
        f"{word}: {', '.join(names)}"
        for word, names in (
            ("better at the same size", better),
            ("worse", worse),
            ("no difference seen", alike),
        )
        if names
    ]
    return "; ".join(parts) or "no arm of a baseline is as small as DemP's"


def _interval(cells: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Mean, low, high."""
    return [float(value) for value in t_interval([cell[name] for cell in cells])[:3]]


def _left(cells: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        name: float(np.mean([cell[name] for cell in cells]))
        for name in ("units_left", "parameters_left")
    }


def _means(cells: Sequence[Mapping[str, Any]]) -> list[float]:
    names = ("cpu_seconds", "seconds")
    return [*_left(cells).values(), *(float(np.mean([c[n] for c in cells])) for n in names)]


def _draw_accuracy(path: Path, *, numbers: Numbers, families: Mapping[str, list[str]]) -> None:
    demp = [arm for arm in numbers if arm.startswith("DemP")]
    curves = []
    for family, members in {"DemP": [*demp, "dense"], **families}.items():
        listed = sorted(
            (_left(numbers[arm])["parameters_left"], *_interval(numbers[arm], "accuracy"))
            for arm in members
        )
        x, y, low, high = map(list, zip(*listed, strict=True))
        curves.append(plots.Line(family, x, y, low, high))
    for arm in numbers:
        if arm.startswith(("no noise", "constant", "warm-up")):
            left = _left(numbers[arm])["parameters_left"]
            curves.append(plots.Line(arm, [left], [_interval(numbers[arm], "accuracy")[0]]))
    plots.lines(
        path,
        curves,
        title="Accuracy against size",
        xlabel="parameters left (of the dense network)",
        ylabel="accuracy on test images",
        note="bands: 95% intervals over seeds",
    )


def _draw_live(path: Path, *, numbers: Numbers) -> None:
    curves = [
        plots.Line(arm, cells[0]["steps"], np.mean([cell["live"] for cell in cells], 0).tolist())
        for arm, cells in numbers.items()
        if cells[0]["steps"]
    ]
    plots.lines(
        path, curves, title="Units alive", xlabel="step", ylabel="units alive, mean of seeds"
    )
