# SPDX-License-Identifier: Apache-2.0
"""One golden step, learning by heart, and steps that are not finite."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin
from recurrentgemma.parameters import param_shapes
from recurrentgemma.params import from_flat_params
from tests.compiling import for_users
from tests.drawn import untrained
from tests.recurrentgemma.models import call
from training.configs import TrainConfig
from training.data.batches import Batch, Batches
from training.optim import OptimConfig, make_optimizer
from training.step import TrainState, TrainStep, init_train_state, make_train_step

# What the golden step, and the parameters after three of them, were when this was written.
GOLDEN = {
    "loss": 5.6987658,
    "grad_norm": 1.7808622,
    "sum_of_squares": 1105.6791924,
}
WORRY = """{name} of the golden step is {got:.7f}, was {expected:.7f} ({relative:.1e} relative).
- About 1e-5 or less: rounding. Another JAX, another machine or another order of sums. No worry:
  widen nothing, and if it stays write the new number down.
- More, and you changed the model, the loss or the optimizer on purpose: write the new number down,
  and say in the commit that everyone's training changes.
- More, and you did not: training is broken. The parity tests say whether the model is; if they
  pass, look at training/optim.py and recurrentgemma/losses.py."""


def fixed_params(config: GriffinConfig) -> Griffin:
    """Parameters from a formula, so that the golden numbers do not depend on a random generator."""
    flat = {}
    for i, (name, shape) in enumerate(param_shapes(config).items()):
        wave_P = np.sin(12.9898 * np.arange(1, np.prod(shape) + 1) + i) * 43758.5453
        uniform = (wave_P % 1.0 - 0.5).reshape(shape) * math.sqrt(12.0)  # mean 0, variance 1
        flat[name] = jnp.asarray(uniform / math.sqrt(shape[0]), jnp.float32)
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


@for_users()
def test_golden_step(small: TrainConfig):
    graphdef, params = nnx.split(fixed_params(small.model), nnx.Param)
    tx = make_optimizer(OptimConfig(warmup_steps=0), steps=10)
    train_step = make_train_step(graphdef, tx)
    train_state, metrics = train_step(init_train_state(params, tx), golden_batch())
    for _ in range(2):  # the first step does not depend on Adam's two decay rates
        train_state, _ = train_step(train_state, golden_batch())
    leaves = jax.tree.leaves(train_state.params)
    got = {
        "loss": float(metrics["loss"]),
        "grad_norm": float(metrics["grad_norm"]),
        "sum_of_squares": sum(float(jnp.sum(jnp.square(leaf))) for leaf in leaves),
    }
    batch = golden_batch()
    logits_BTV, _ = call(fixed_params(small.model), batch.tokens_BT, positions=batch.positions_BT)
    log_z_BT = jax.nn.logsumexp(logits_BTV, -1)
    log_z = np.average(log_z_BT, weights=batch.weights_BT)
    assert float(metrics["log_z"]) == pytest.approx(log_z, rel=1e-5)
    for name, expected in GOLDEN.items():
        relative = abs(got[name] / expected - 1)
        assert relative < 1e-5, WORRY.format(
            name=name, got=got[name], expected=expected, relative=relative
        )


def learner(config: TrainConfig, steps: int) -> tuple[TrainState, TrainStep]:
    graphdef, params = nnx.split(untrained(config.model), nnx.Param)
    tx = make_optimizer(config.optimizer, steps=steps)
    return init_train_state(params, tx), make_train_step(graphdef, tx)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
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
