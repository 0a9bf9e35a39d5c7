# SPDX-License-Identifier: Apache-2.0
"""The cells of an experiment computed by the machines of a Ray cluster, a task a cell.

A machine finds the experiment by its name, as the command does, and sends the numbers back; who
asked for them keeps them (eval/cells.py), so that a study goes on where it stopped, on a cluster or
alone. What a long cell keeps of how far it is lies in the same folder as alone, if the machines
share it; else a cell whose machine is lost begins anew.
"""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints.ray_cluster import Task, joined, results_of
from eval.options import RayOptions
from training.recipes.experiment import Cell, Experiment, PresetOptions


class Origin(NamedTuple):
    """Where an experiment is found: by its name, or of a preset by the preset's and its options."""

    recipe: str
    name: str
    options: PresetOptions | None = None


def find_experiment(origin: Origin) -> Experiment:
    module = importlib.import_module(f"training.recipes.{origin.recipe}.experiments")
    if origin.options is None:
        return next(one for one in module.EXPERIMENTS if one.name == origin.name)
    preset = next(one for one in module.PRESETS if one.name == origin.name)
    return preset.experiment(origin.options)


class OnCluster(NamedTuple):
    """What computes cells in place of `Experiment.measured`."""

    origin: Origin
    cluster: RayOptions

    def measured(
        self, cells: Sequence[Cell], folder: Path
    ) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
        """The numbers of these cells, as they come. Raises UserError: see
        `checkpoints.ray_cluster`."""
        tasks = [Task(number, (cell.arm, cell.seed)) for number, cell in enumerate(cells)]
        shared = self.origin, str(folder.absolute())
        assert self.cluster.ray is not None
        cpus, gpus = self.cluster.ray_cpus, self.cluster.ray_gpus
        with joined(self.cluster.ray) as ray:
            for number, numbers in results_of(ray, compute, shared, tasks, cpus=cpus, gpus=gpus):
                yield cells[number], json.loads(numbers)


def compute(shared: tuple[Origin, str], arm: str, seed: int) -> str:
    """The numbers of one cell, as JSON, by a machine of the cluster."""
    origin, folder = shared
    experiment = find_experiment(origin)
    cell = Cell(arm, experiment.arms[arm], seed)
    [(_, numbers)] = experiment.measured([cell], Path(folder))
    return json.dumps(dict(numbers))
