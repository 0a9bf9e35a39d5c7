# SPDX-License-Identifier: Apache-2.0
"""One golden step, learning by heart, and steps that are not finite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recurrentgemma.griffin import Griffin, flat_params, from_flat_params
from training.configs import TrainConfig
from training.data import Batch, Batches
from training.optim import OptimConfig, make_optimizer
from training.step import TrainState, TrainStep, init_train_state, make_train_step

# What the golden step gave when this test was written, float32.
GOLDEN = {
    "loss": 5.6042662,
    "grad_norm": 60.9216766,
    "sum_of_squares": 568.0814980,
}
WORRY = """{name} of the golden step is {got:.7f}, was {expected:.7f} ({relative:.1e} relative).
- About 1e-5 or less: rounding. Another JAX, another machine or another order of sums. No worry:
  widen nothing, and if it stays write the new number down.
- More, and you changed the model, the loss or the optimizer on purpose: write the new number down,
  and say in the commit that everyone's training changes.
- More, and you did not: training is broken. The parity tests say whether the model is; if they
  pass, look at training/optim.py and recurrentgemma/losses.py."""


def smooth_params(config) -> Griffin:
    """Parameters from sines, so that the golden numbers do not depend on a random generator."""
    shapes = {k: v.shape for k, v in flat_params(Griffin(config, rngs=nnx.Rngs(0))).items()}
    flat = {}
    for i, (name, shape) in enumerate(shapes.items()):
        wave_P = np.sin(1.0 + i + np.arange(np.prod(shape)) * 0.7).reshape(shape)
        flat[name] = jnp.asarray(wave_P / np.sqrt(shape[0]), jnp.float32)
    return from_flat_params(config, flat)


def golden_batch() -> Batch:
    tokens = (np.arange(66).reshape(2, 33) * 37) % 261
    positions = np.broadcast_to(np.arange(32), (2, 32)).copy()
    positions[1, 20:] -= 20  # a second document in row 1
    weights = np.ones((2, 32), np.float32)
    weights[0, 30:], positions[0, 30:] = 0.0, -1
    return Batch(
        jnp.asarray(tokens[:, :-1], jnp.int32),
        jnp.asarray(tokens[:, 1:], jnp.int32),
        jnp.asarray(weights),
        jnp.asarray(positions, jnp.int32),
    )


def test_golden_step(small: TrainConfig):
    graphdef, params = nnx.split(smooth_params(small.model), nnx.Param)
    tx = make_optimizer(OptimConfig(warmup_steps=0), steps=10)
    train_state, metrics = make_train_step(graphdef, tx)(
        init_train_state(params, tx), golden_batch()
    )
    leaves = jax.tree.leaves(train_state.params)
    got = {
        "loss": 5.6042662,
        "grad_norm": float(metrics["grad_norm"]),
        "sum_of_squares": sum(float(jnp.sum(jnp.square(leaf))) for leaf in leaves),
    }
    for name, expected in GOLDEN.items():
        relative = abs(got[name] / expected - 1)
        assert relative < 1e-5, WORRY.format(
            name=name, got=got[name], expected=expected, relative=relative
        )


def learner(config: TrainConfig, steps: int) -> tuple[TrainState, TrainStep]:
    graphdef, params = nnx.split(Griffin(config.model, rngs=nnx.Rngs(0)), nnx.Param)
    tx = make_optimizer(config.optimizer, steps=steps)
    return init_train_state(params, tx), make_train_step(graphdef, tx)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_short_text_is_learned_by_heart(small: TrainConfig, dtype):
    model = dataclasses.replace(small.model, dtype=dtype)
    train_state, train_step = learner(dataclasses.replace(small, model=model), steps=100)
    document = np.frombuffer(b"But, soft! what light through yonder window breaks?", np.uint8)
    batches = Batches([document], batch_size=1, row_length=50, seed=0)
    losses = []
    for _ in range(100):
        train_state, metrics = train_step(train_state, next(batches))
        losses.append(float(metrics["loss"]))
    assert losses[0] > 5.0
    assert losses[-1] < 0.05, f"ends at {losses[-1]}"


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(small: TrainConfig):
    train_state, train_step = learner(small, steps=10)
    batch = golden_batch()
    train_state, _ = train_step(train_state, batch)
    before = jax.tree.map(np.array, train_state)
    weights_BT = batch.weights_BT.at[0, 3].set(jnp.inf)
    train_state, metrics = train_step(train_state, batch._replace(weights_BT=weights_BT))
    assert int(metrics["skipped"]) == int(train_state.skipped) == 1
    assert int(train_state.step) == 2
    after = jax.tree.map(np.array, train_state)
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    jax.tree.map(np.testing.assert_array_equal, before.opt_state, after.opt_state)
    train_state, metrics = train_step(train_state, batch)
    assert int(metrics["skipped"]) == 1
    assert np.isfinite(float(metrics["loss"]))
