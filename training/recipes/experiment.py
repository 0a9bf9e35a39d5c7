# SPDX-License-Identifier: Apache-2.0
"""An experiment of a recipe: arms x seeds, each pair a cell, and what is concluded from them.

    Experiment(
        name="adam",
        question="does a small epsilon of Adam lose plasticity?",
        cost="8 CPU minutes",
        arms={"default": Choices(), "layer norm": Choices(layer_norm=True)},
        measure=measure,      # the cells that are missing -> (cell, its numbers), one by one
        conclude=conclude,    # arm -> the numbers of its seeds -> Findings
    )

An arm is a frozen dataclass that holds all that changes its numbers, and its fields are what a cell
is found by: a finished cell is kept in OUT/cells and not computed again (eval/cells.py). Which
cells run as one program is the affair of `measure`: it gets all that are missing and yields each as
soon as its numbers are known.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.cells import Cells
from eval.results import CELLS, Table, open_results
from recurrentgemma.errors import UserError

UNFINISHED = "unfinished"  # the folder of cells that are being computed


class Cell(NamedTuple):
    """One training: an arm's name, its choices, and the seed."""

    arm: str
    choices: Any
    seed: int


class Findings(NamedTuple):
    """What an experiment has shown.

    verdict: in words, what was seen, whatever it was. numbers: by name, JSON. plots: by file name
    without its ending, what draws one to a path.
    """

    verdict: str
    numbers: Mapping[str, Any]
    tables: Sequence[Table] = ()
    plots: Mapping[str, Callable[[Path], None]] = {}


Measure = Callable[[Sequence[Cell]], Iterator[tuple[Cell, Mapping[str, Any]]]]
MeasureIn = Callable[[Sequence[Cell], Path], Iterator[tuple[Cell, Mapping[str, Any]]]]
Conclude = Callable[[Mapping[str, Sequence[Mapping[str, Any]]]], Findings]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Values and two functions; see above. cost: with all seeds; of CPU time two
    cores do nearly two minutes in one."""

    name: str
    question: str
    cost: str
    arms: Mapping[str, Any]
    measure: Measure | None = None
    measure_in: MeasureIn | None = None
    """In place of `measure`, where a cell takes long: it also gets a folder to keep in how far a
    cell is."""
    conclude: Conclude
    seeds: int = 5

    def __post_init__(self) -> None:
        assert (self.measure is None) != (self.measure_in is None), self.name

    def measured(
        self, cells: Sequence[Cell], folder: Path
    ) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
        """The numbers of these cells, one by one."""
        if self.measure_in is not None:
            return self.measure_in(cells, folder)
        assert self.measure is not None
        return self.measure(cells)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PresetOptions:
    """Which runs of a paper."""

    environments: tuple[str, ...]
    epochs: tuple[int, ...]
    interventions: tuple[str, ...]
    steps: int

    def __post_init__(self) -> None:
        if min(self.steps, *self.epochs) < 1:
            raise UserError(f"--steps {self.steps}, --epochs {self.epochs}: expected at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A paper's own runs by a name. options: all that it has."""

    name: str
    what: str
    options: PresetOptions
    experiment: Callable[[PresetOptions], Experiment]


def run_experiment(
    recipe: str,
    experiment: Experiment,
    folder: Path,
    *,
    seeds: int | None = None,
    measured: MeasureIn | None = None,
) -> dict[str, Any]:
    """Compute the cells that are missing and write the results into a folder, which is made.

    measured: computes them in place of the experiment's own function, as on a cluster.
    Returns the content of result.json.
    Raises UserError: no seeds are asked for; the folder has another experiment's results.
    """
    seeds = experiment.seeds if seeds is None else seeds
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: expected at least 1")
    settings = {"recipe": recipe, "experiment": experiment.name}
    with open_results(folder, kind="recipe", settings=settings) as results:
        measure = partial(measured or experiment.measured, folder=folder / UNFINISHED)
        finished = _finished_cells(experiment, Cells(folder / CELLS), measure, seeds)
        findings = experiment.conclude(finished)
        return results.finish(
            {
                "verdict": findings.verdict,
                "seeds": seeds,
                **findings.numbers,
                "arms": {name: _fields(choices) for name, choices in experiment.arms.items()},
            },
            tables=findings.tables,
            plots=findings.plots,
        )


def _finished_cells(
    experiment: Experiment, cells: Cells, measure: Measure, seeds: int
) -> dict[str, list[dict[str, Any]]]:
    """Arm -> the numbers of seeds 0, 1, ..."""
    asked = [
        Cell(arm, choices, seed)
        for arm, choices in experiment.arms.items()
        for seed in range(seeds)
    ]
    numbers = {}
    for cell in asked:
        if (kept := cells.take(_name(cell), _settings(cell))) is not None:
            numbers[cell.arm, cell.seed] = kept
    missing = [cell for cell in asked if (cell.arm, cell.seed) not in numbers]
    if missing:
        started = time.monotonic()
        print(
            f"{experiment.name}: {len(missing)} of {len(asked)} cells to compute", file=sys.stderr
        )
        for cell, values in measure(missing):
            numbers[cell.arm, cell.seed] = cells.keep(_name(cell), _settings(cell), values)
            done, seconds = len(numbers), time.monotonic() - started
            print(
                f"{experiment.name}: {cell.arm}, seed {cell.seed}: cell {done} of {len(asked)} "
                f"after {seconds:,.0f} s",
                file=sys.stderr,
                flush=True,
            )
    return {arm: [numbers[arm, seed] for seed in range(seeds)] for arm in experiment.arms}


def _name(cell: Cell) -> str:
    return f"{cell.arm.replace(' ', '_').replace('/', '_')}-seed{cell.seed}"


def _settings(cell: Cell) -> dict[str, Any]:
    return {"arm": cell.arm, "choices": _fields(cell.choices), "seed": cell.seed}


def _fields(choices: Any) -> Any:
    """An arm's choices as JSON."""
    return json.loads(json.dumps(dataclasses.asdict(choices)))


def as_json(value: Any) -> Any:
    """Arrays and their scalars, nested in dictionaries and lists, as JSON takes them."""
    if isinstance(value, Mapping):
        return {name: as_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    return np.asarray(value).tolist() if hasattr(value, "dtype") else value
