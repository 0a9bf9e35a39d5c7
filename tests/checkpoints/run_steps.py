# SPDX-License-Identifier: Apache-2.0
"""The steps of a run, written and read at once: what tests do around the code that trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoints import step as step_files
from checkpoints import store


def save(run_dir: Path, step: int, params: Mapping[str, Any], *, keep: int = 3, **what: Any):
    """Write one step, and wait for it. what: opt_state, data_state and metrics."""
    with store.Checkpoints(run_dir, keep=keep) as checkpoints:
        checkpoints.save(step, params, **what)


def restore(run_dir: Path, step: int | None = None, **like: Any) -> step_files.Restored:
    """Read one step, by default the newest. like: params_like and opt_state_like."""
    step = store.latest_step(run_dir) if step is None else step
    return step_files.read(run_dir / store.STEPS / str(step), **like)


def best_step(run_dir: Path, metric: str, *, highest: bool = False) -> int | None:
    """The step with the lowest (or highest) value of a metric; None if none has it."""
    folder = run_dir / store.STEPS
    metrics = {
        step: step_files.read_content(folder / str(step), step_files.METRICS) or {}
        for step in store.all_steps(run_dir)
    }
    return next(iter(step_files.ranked(metrics, metric, highest=highest)), None)
