# SPDX-License-Identifier: Apache-2.0
"""What is measured is what one long forward pass gives, whatever the chunks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eval.tasks.synthetic_models import synthetic_model
from eval.tasks.synthetic_task import TASKS, Solved, measure
from tests.drawn import untrained


@pytest.mark.parametrize(("name", "length"), [("griffin", 150), ("mqa", 40)])
def test_as_one_forward_pass(name, length: int):
    """Random models are right by chance, once in 16 answers."""
    task = TASKS["selective_copying"]
    config = synthetic_model(name, window=16, context_length=1)
    config = dataclasses.replace(
        config, num_layers=3, width=16, mlp_width=16, context_length=length
    )
    model = untrained(config, 1)
    model.final_norm.scale[...] = jnp.full(16, -2.0)  # else it gives what it has just read
    graphdef, params = nnx.split(model)

    @jax.jit
    def right(params, key):
        tokens_BT, answers_BA = task.draw(key, 4, length)
        logits_BTV, _ = nnx.merge(graphdef, params)(tokens_BT)
        return logits_BTV[:, -task.answers :].argmax(-1) == answers_BA

    key = jax.random.fold_in(jax.random.key(5), length)
    right_BA = np.concatenate([right(params, jax.random.fold_in(key, i)) for i in range(2)])[:6]
    assert 0 < right_BA.sum() < right_BA.size
    solved = measure(config, params, task, length, sequences=6, batch_size=4, seed=5)
    assert solved == Solved(right_BA.sum(), right_BA.all(axis=1).sum(), 6)


def test_the_papers_lengths_and_windows():
    sizes = {name: (task.length, task.window, task.answers) for name, task in TASKS.items()}
    assert sizes == {"selective_copying": (1024, 512, 16), "induction_heads": (256, 128, 1)}
