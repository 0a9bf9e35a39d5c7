# SPDX-License-Identifier: Apache-2.0
"""Where a run's records go besides metrics.jsonl: TensorBoard, and Weights & Biases."""

import importlib
import math
from pathlib import Path
from typing import Any, Protocol

from training.metrics import TIMINGS

TENSORBOARD = "tensorboard"


class Tracker(Protocol):
    """Takes each record of metrics.jsonl as it is written."""

    def write(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """RUN_DIR/tensorboard, for `tensorboard --logdir`. Steps after `step`, left by a run that was
    killed, are hidden when they are computed again."""

    def __init__(self, run_dir: Path, *, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / TENSORBOARD), purge_step=step + 1)

    def write(self, record: dict[str, Any]) -> None:
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


def import_wandb(project: str) -> Any:
    """The module. Raises ValueError: Weights & Biases, wanted for `project`, is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise ValueError(
            f"wandb={project!r}: Weights & Biases is not installed; `pip install wandb`, or leave "
            "--wandb out"
        ) from None


class WeightsAndBiases:
    """A run of a project at Weights & Biases, under the run directory's name; resumed there, too.

    Raises:
      ValueError: wandb is not installed.
    """

    def __init__(self, project: str, run_dir: Path, config: dict[str, Any]) -> None:
        name = run_dir.resolve().name
        self._run = import_wandb(project).init(
            project=project, name=name, id=name, resume="allow", dir=str(run_dir), config=config
        )

    def write(self, record: dict[str, Any]) -> None:
        self._run.log(_numbers(record), step=record["step"])

    def close(self) -> None:
        self._run.finish()


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    """What can be drawn, what the machine did in a group of its own."""
    return {
        f"speed/{name}" if name in TIMINGS else name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and math.isfinite(value) and name != "step"
    }
