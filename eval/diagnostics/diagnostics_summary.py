# SPDX-License-Identifier: Apache-2.0
"""The result, tables and plots of `griffin eval diagnostics`."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from eval import plots
from eval.results import Table
from recurrentgemma.config import GriffinConfig

RANKS = ("pca_rank", "effective_rank", "srank", "feature_rank", "numerical_rank", "norm")
UNITS = ("dead_units", "near_dead_units", "near_dead_energy", "dormant_units")
GATES = ("open_gates", "closed_gates", "linearised_gates", "gate_std", "gate_norm", "up_norm")
DECAYS = ("decay", "slow_decays", "fast_decays", "open_branches", "closed_branches")
RG_LRU_GATES = (
    *("recurrence_gate_std", "recurrence_gate_saturated"),
    *("input_gate_std", "input_gate_saturated"),
)
FLOOR = 1e-6  # of a plotted density, times its highest point


def summary(
    parts: Mapping[str, Mapping[str, Any]], config: GriffinConfig, layers: Sequence[int]
) -> dict[str, Any]:
    """As Results.finish takes it. parts: what Measuring.parts gave, by name."""
    numbers = parts["layers"]["numbers"]
    places = [*(f"blocks.{layer}" for layer in layers), "final"]
    result: dict[str, Any] = {
        "tokens": parts["layers"]["tokens"],
        "width": config.width,
        **{name: _finite(value) for name, value in numbers.items()},
        **parts["weights"]["numbers"],
    }
    tables = [
        _table(f"{title}, of {result['tokens']:,} tokens", names, places, numbers)
        for title, names in (
            (f"Ranks of what blocks give (width {config.width})", RANKS),
            ("MLP units, as shares", UNITS),
            ("MLP gates", GATES),
            ("Recurrent blocks, decays and branches", DECAYS),
            ("Recurrent blocks, gates of the RG-LRU", RG_LRU_GATES),
        )
    ]
    drawn: dict[str, Any] = {
        "ranks": _by_layer("Ranks by layer", "rank", RANKS[:3], layers, numbers),
        "units": _by_layer(
            "MLP units and gates by layer", "share of units", UNITS[1:] + GATES[:3], layers, numbers
        ),
    }
    if any(name.endswith("/decay") for name in numbers):
        names = ("slow_decays", "fast_decays", "recurrence_gate_saturated", "input_gate_saturated")
        title = "Saturation of the RG-LRU by layer"
        drawn["rg_lru"] = _by_layer(title, "share of channels", names, layers, numbers)
    others = {
        f"gradients: {name.partition('/')[2].replace('_', ' ')}": value
        for name, value in numbers.items()
        if name.startswith("gradients/")
    }
    if probe := parts.get("probe"):
        result["probe"] = {name: probe[name] for name in ("rows", "loss", "fresh_loss", "lost")}
        others |= {
            "probe: nats per target after it": probe["loss"],
            "probe: the same of a fresh model": probe["fresh_loss"],
            "probe: loss of plasticity": probe["lost"],
        }
        steps = list(range(len(probe["losses"])))
        curves = [
            plots.Line("this model", steps, probe["losses"]),
            plots.Line("a fresh model", steps, probe["fresh_losses"]),
        ]
        drawn["probe"] = partial(
            plots.lines,
            curves=curves,
            title="Plasticity probe",
            xlabel="step",
            ylabel="loss of the step's batch (nats per target)",
        )
    if curvature := parts.get("curvature"):
        ends = {name: curvature[name] for name in ("top", "bottom")}
        result["hessian"] = ends
        others |= {f"Hessian: {name} eigenvalue": value for name, value in ends.items()}
        floor = FLOOR * max(curvature["density"])
        density = [max(value, floor) for value in curvature["density"]]
        drawn["hessian"] = partial(
            plots.lines,
            curves=[plots.Line("density", curvature["at"], density)],
            title="Spectrum of the Hessian",
            xlabel="eigenvalue",
            ylabel="density",
            log_y=True,
        )
    tables.append(Table("The whole model", ("", ""), [[k, v] for k, v in others.items()]))
    norms = parts["weights"]["numbers"]
    rows = [[name.partition("/")[2], value] for name, value in norms.items()]
    tables.append(Table("Norms of matrices", ("matrix", "L2 norm"), rows))
    shown = [table for table in tables if table.rows]
    return {"result": result, "tables": shown, "plots": drawn}


def _table(
    title: str, names: Sequence[str], places: Sequence[str], numbers: Mapping[str, float]
) -> Table:
    rows = [
        [place, *(_finite(numbers.get(f"{place}/{name}", math.nan)) for name in names)]
        for place in places
        if f"{place}/{names[0]}" in numbers
    ]
    return Table(title, ("", *(name.replace("_", " ") for name in names)), rows)


def _by_layer(
    title: str,
    ylabel: str,
    names: Sequence[str],
    layers: Sequence[int],
    numbers: Mapping[str, float],
) -> Any:
    curves = []
    for name in names:
        here = [layer for layer in layers if f"blocks.{layer}/{name}" in numbers]
        label = name.replace("_", " ")
        curves.append(plots.Line(label, here, [numbers[f"blocks.{n}/{name}"] for n in here]))
    return partial(plots.lines, curves=curves, title=title, xlabel="layer", ylabel=ylabel)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
