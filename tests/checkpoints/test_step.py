# SPDX-License-Identifier: Apache-2.0
"""One step on disk: what ranks it, and its reading back by one process or shared by several."""

import json
import math
from pathlib import Path

import jax.numpy as jnp
import pytest

from checkpoints import orbax_tree, step, store
from checkpoints.open_checkpoint import Damaged
from tests.checkpoints import run_steps
from tests.checkpoints.conftest import small_config


def test_ranked():
    metrics = {1: {"loss": 2.0}, 2: {"loss": 1.0}, 3: {}, 4: {"loss": math.nan}, 5: {"loss": 1.0}}
    assert step.ranked(metrics, "loss", highest=False) == [5, 2, 1]
    assert step.ranked(metrics, "loss", highest=True) == [1, 5, 2]
    assert step.ranked(metrics, None, highest=False) == []


def test_several_processes_share_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every array is read by one of them; a wrong one is seen by whom it falls to."""
    store.write_run_config(tmp_path, small_config(num_layers=1), {})
    params = {f"p{i}": jnp.full((3,), float(i)) for i in range(3)}
    run_steps.save(tmp_path, 7, params, opt_state={f"m{i}": jnp.ones(2) for i in range(2)})
    folder = tmp_path / "checkpoints" / "7"
    read: list[list[str]] = [[], []]
    read_arrays = orbax_tree.read_arrays

    for part in (0, 1):

        def noted(path, tensors, dtype, sums, part=part):
            read[part] += tensors
            return read_arrays(path, tensors, dtype, sums)

        with monkeypatch.context() as patch:
            patch.setattr(orbax_tree, "read_arrays", noted)
            step.read_back(folder, part=part, parts=2)
    assert sorted(read[0] + read[1]) == ["m0", "m1", "p0", "p1", "p2"]
    assert all(read)

    file = folder / "checksums" / "metadata"
    sums = json.loads(file.read_text())
    sums["arrays"]["params"]["p1"] ^= 1
    file.write_text(json.dumps(sums))
    step.read_back(folder, part=0, parts=2)
    with pytest.raises(Damaged, match="'p1' holds other values"):
        step.read_back(folder, part=1, parts=2)
