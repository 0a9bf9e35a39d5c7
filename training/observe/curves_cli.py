# SPDX-License-Identifier: Apache-2.0
"""`griffin eval curves`: the learning curves of runs, side by side."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eval.options import Result, ResultOptions

if TYPE_CHECKING:
    from training.observe.curves import Curve

DESCRIPTION = """The learning curves of runs: loss on what they learn from, and on held-out text.

They are read from the metrics.jsonl of runs, whether these have ended or not. A point is the mean
of many steps, and its band reaches from the least to the most of them.

examples:
  griffin eval curves runs/demo
  griffin eval curves runs/study_* --out results/curves
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurvesArguments:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of `griffin train`."""
    points: int = 40
    """Of a training curve, at most."""
    result: Result = dataclasses.field(default_factory=ResultOptions)


def main(argv: list[str]) -> int:
    """Read, print, and write what was asked for."""
    arguments = tyro.cli(
        CurvesArguments, prog="griffin eval curves", description=DESCRIPTION, args=argv
    )
    return run(arguments)


def run(arguments: CurvesArguments) -> int:
    """Raises UserError: no run is named, one twice, one has logged nothing, or units differ."""
    from eval import results
    from recurrentgemma.errors import UserError
    from training.observe.curves import UNITS, read_curve

    if not arguments.runs:
        raise UserError("there is no run: name folders of `griffin train`")
    if arguments.points < 2:
        raise UserError(f"--points is {arguments.points}: expected at least 2")
    curves = [read_curve(folder, points=arguments.points) for folder in arguments.runs]
    names = [curve.name for curve in curves]
    if len(set(names)) < len(names):
        raise UserError(f"two runs have one name ({', '.join(names)}): rename a folder")
    if len({curve.unit for curve in curves}) > 1:
        units = ", ".join(f"{curve.name} has {UNITS[curve.unit]}" for curve in curves)
        raise UserError(f"losses in different units are no curves of one plot: {units}")
    out = arguments.result.out
    settings = {"runs": [[c.name, c.steps, c.tokens] for c in curves], "points": arguments.points}
    with results.open_results(out, kind="curves", settings=settings) as kept:
        if kept.finished is None:
            finish(kept, curves)
        assert kept.finished is not None
        results.show(kept.finished, as_json=arguments.result.json, folder=out)
    return 0


def finish(kept: Any, curves: "list[Curve]") -> None:
    """The result, its table and its plots."""
    from eval.plots import Line, lines
    from eval.results import Table
    from training.observe.curves import BITS, UNITS

    unit = UNITS[curves[0].unit]
    rows = []
    for curve in curves:
        held_out = curve.held_out
        best = min(range(len(held_out.y)), key=held_out.y.__getitem__, default=None)
        rows.append(
            (
                *(curve.name, curve.steps, curve.tokens, curve.training.y[-1]),
                None if best is None else held_out.y[-1],
                None if best is None else held_out.y[best],
                None if best is None else held_out.tokens[best],
                curve.tokens_per_second,
            )
        )
    columns = ("run", "steps", "tokens", f"training, {unit}", "held out, bits per byte")
    columns += ("least held out", "after tokens", "tokens/s")
    held_out_curves = [curve for curve in curves if curve.held_out.y]
    drawn = {"training": (curves, unit, "on what is learned from")}
    if held_out_curves:
        drawn["held_out"] = (held_out_curves, UNITS[BITS], "on held-out text")
    plots = {}
    for name, (shown, of_unit, where) in drawn.items():
        of_name = [(curve, getattr(curve, name)) for curve in shown]
        bands = name == "training"
        plots[name] = partial(
            lines,
            curves=[
                Line(
                    curve.name,
                    [tokens / 1e6 for tokens in points.tokens],
                    points.y,
                    points.low if bands else None,
                    points.high if bands else None,
                )
                for curve, points in of_name
            ],
            title=f"Loss {where}",
            xlabel="tokens learned from (millions)",
            ylabel=of_unit,
            note="bands: least and most of the logged steps that a point is the mean of"
            if bands
            else "",
        )
    result = {
        curve.name: {
            "unit": curve.unit,
            "training": curve.training._asdict(),
            "held_out": curve.held_out._asdict(),
        }
        for curve in curves
    }
    kept.finish(result, tables=[Table("Learning curves", columns, rows)], plots=plots)
