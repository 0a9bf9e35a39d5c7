# SPDX-License-Identifier: Apache-2.0
"""What a recipe does with a run folder: any dictionary as its config, any pytree as its state."""

import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.run_folder import (
    begin_run,
    differences,
    locked,
    open_checkpoints,
    open_run,
    restore,
    save,
)

CONFIG = {"agent": {"width": 8, "layers": [4, 4]}, "seed": 0, "log_every": 5}


class Agent(NamedTuple):
    """A state that is no language model's."""

    policy: dict[str, jax.Array]
    critics: list[jax.Array]
    frames: jax.Array


def agent(value: int) -> Agent:
    critics = [jnp.full((2, 3), value, jnp.float32), jnp.ones((2,), jnp.bfloat16)]
    return Agent({"w": jnp.full((4,), value, jnp.float32)}, critics, jnp.int32(value))


def test_a_recipe_is_saved_and_goes_on(tmp_path: Path):
    run_dir = tmp_path / "run"
    assert open_run(run_dir, CONFIG) == 0
    begin_run(run_dir, CONFIG)
    with locked(run_dir), open_checkpoints(run_dir, keep=1, best="score") as checkpoints:
        assert restore(checkpoints, agent(0)) is None
        for step, score in ((1, 0.5), (2, 0.1), (3, 0.4), (4, 0.3)):
            save(checkpoints, step, agent(step), numbers={"at": step}, metrics={"score": score})
    assert open_run(run_dir, CONFIG) == 4
    like = jax.eval_shape(lambda: agent(0))
    with open_checkpoints(run_dir, keep=1, best="score") as checkpoints:
        assert checkpoints.steps() == [2, 4]  # the best, and the newest
        newest, best = restore(checkpoints, like), restore(checkpoints, like, step=2)
    for saved, step in ((newest, 4), (best, 2)):
        assert saved is not None
        assert (saved.step, saved.numbers) == (step, {"at": step})
        assert jax.tree.structure(saved.tree) == jax.tree.structure(like)
        for got, expected in zip(
            jax.tree.leaves(saved.tree), jax.tree.leaves(agent(step)), strict=True
        ):
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)


def test_what_may_change_is_reported_and_written_and_the_rest_refused(tmp_path: Path):
    run_dir, lines = tmp_path / "run", []
    begin_run(run_dir, CONFIG)
    begin_run(run_dir, {"seed": 1})  # it has begun already
    other = CONFIG | {"log_every": 6}
    with pytest.raises(
        UserError, match=r"another config \(saved -> asked\): log_every: 5 -> 6\. Ask"
    ):
        open_run(run_dir, other)
    assert open_run(run_dir, other, may_change=["log_every"], report=lines.append) == 0
    assert lines == [f"{run_dir} goes on after step 0 with changed log_every: 5 -> 6"]
    assert json.loads((run_dir / "config.json").read_text()) == other
    wider = {**other, "agent": {"width": 9, "layers": [4, 4]}}
    with pytest.raises(UserError, match=r"agent\.width: 8 -> 9"):
        open_run(run_dir, wider, may_change=["log_every"])
    with pytest.raises(UserError, match=r": width: 8 -> 9\. Ask"):
        open_run(run_dir, wider, unnamed="agent")


def test_one_program_at_a_time(tmp_path: Path):
    begin_run(tmp_path, CONFIG)
    with (
        locked(tmp_path),
        pytest.raises(UserError, match="is being written by another"),
        locked(tmp_path),
    ):
        raise AssertionError("locked twice")


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="exists and is not a run; choose another"):
        open_run(tmp_path, CONFIG)


def test_differences_name_every_field_by_its_path():
    saved = {"seed": 0, "model": {"width": 8, "pattern": ["a"]}, "old": 1}
    asked = {"seed": 0, "model": {"width": 9, "pattern": ["a"]}, "new": 2}
    changes = {"model.width": "8 -> 9", "new": "None -> 2", "old": "1 -> None"}
    assert differences(saved, asked) == changes
    assert differences(saved, saved) == {}
