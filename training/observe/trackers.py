# SPDX-License-Identifier: Apache-2.0
"""Where a run's records go besides metrics.jsonl: TensorBoard, and Weights & Biases."""

import importlib
import math
import socket
import time
from pathlib import Path
from typing import Any, Protocol

from checkpoints.files import naming
from recurrentgemma.errors import MissingExtra
from training.observe.metrics import TIMINGS

TENSORBOARD = "tensorboard"
FLUSH_SECONDS = 30  # which waits for the disk


class Tracker(Protocol):
    """Takes each record of metrics.jsonl as it is written."""

    def write(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """RUN_DIR/tensorboard, for `tensorboard --logdir`. Steps after `step`, left by a run that was
    killed, are hidden when they are computed again."""

    def __init__(self, run_dir: Path, *, step: int) -> None:
        # Not SummaryWriter, which writes in a thread: on a full disk that one dies, and the next
        # scalars wait for it for ever.
        from tensorboardX.record_writer import RecordWriter

        self._proto = importlib.import_module("tensorboardX.proto.event_pb2")
        folder, now = run_dir / TENSORBOARD, time.time()
        self._path = folder / f"events.out.tfevents.{now:.6f}.{socket.gethostname()}"
        with naming(self._path):
            folder.mkdir(exist_ok=True)
            self._file = RecordWriter(str(self._path))
        self._flushed = now
        self._add(file_version="brain.Event:2")
        start = self._proto.SessionLog(status=self._proto.SessionLog.START)
        self._add(step=step + 1, session_log=start)

    def write(self, record: dict[str, Any]) -> None:
        """Raises OSError, with the path: there is no space for it."""
        values = [{"tag": name, "simple_value": value} for name, value in _numbers(record).items()]
        self._add(step=record["step"], summary={"value": values})

    def close(self) -> None:
        """Raises OSError as write."""
        with naming(self._path):
            self._file.close()

    def _add(self, **content: Any) -> None:
        now = time.time()
        with naming(self._path):
            event = self._proto.Event(wall_time=now, **content)
            self._file.write(event.SerializeToString())
            if now > self._flushed + FLUSH_SECONDS:
                self._flushed = now
                self._file.flush()


def import_wandb(project: str) -> Any:
    """The module. Raises MissingExtra: Weights & Biases, wanted for `project`, is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise MissingExtra(
            f"wandb={project!r}: Weights & Biases is not installed; `pip install wandb`, or leave "
            "--wandb out"
        ) from None


class WeightsAndBiases:
    """A run of a project at Weights & Biases, under the run directory's name; resumed there, too.

    Raises:
      MissingExtra: wandb is not installed.
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
        f"speed/{name}" if name in TIMINGS or name.endswith("_per_second") else name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and math.isfinite(value) and name != "step"
    }
