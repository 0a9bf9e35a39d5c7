# SPDX-License-Identifier: Apache-2.0
"""What a run is built of, and how its steps rank; test_loop.py runs the whole."""

import dataclasses

from checkpoints import store
from tests.checkpoints import run_steps
from training import build, loop, run
from training.launch import Launch

ONE = Launch(devices=1)


def test_the_best_of_a_run_is_kept_beside_the_newest(small, tmp_path, monkeypatch):
    """The last step is scored on more text, and does not rank."""
    scores = iter([3.0, 2.0, 2.5, 0.1])
    monkeypatch.setattr(build, "held_out_bits_per_byte", lambda *a, **k: next(scores))
    scored = dataclasses.replace(small, eval_every=3, save_every=3, keep=1)
    assert loop.train(scored, tmp_path / "run", ONE)
    assert store.all_steps(tmp_path / "run") == [6, 12]
    assert run_steps.best_step(tmp_path / "run", run.ranking(scored)) == 6
    other = dataclasses.replace(scored, eval_tokens=9)
    assert run_steps.best_step(tmp_path / "run", run.ranking(other)) is None
