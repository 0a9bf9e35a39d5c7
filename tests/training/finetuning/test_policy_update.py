# SPDX-License-Identifier: Apache-2.0
"""The update of an iteration: its first step by hand, and what each term of the loss does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.finetuning.small_policy import drawn, judge, policy_config, split_model, trained
from training.configs import TrainConfig
from training.finetuning.policy import real_tokens
from training.finetuning.policy_losses import group_advantages
from training.finetuning.policy_update import PolicyState, make_update
from training.optim import OptimConfig, make_optimizer


@pytest.fixture(scope="module")
def model(small: TrainConfig):
    return split_model(small)


@pytest.fixture(scope="module")
def rollout(model, small: TrainConfig):
    """As the policy itself has drawn it."""
    graphdef, params = model
    return drawn(jax.jit(lambda rollout: judge(graphdef)(trained(params, small), (), rollout)))


def adam() -> optax.GradientTransformation:
    """As runs have it, at a constant learning rate of 1e-3."""
    config = OptimConfig(learning_rate=1e-3, warmup_steps=0, final_fraction=1.0, weight_decay=0.0)
    return make_optimizer(config, steps=100)


def updated(model, small, rollout, *, tx=None, reference=None, batch_size=4, **changes):
    """(parameters before, state, metrics) of an update; by default by plain gradient descent."""
    graphdef, params = model
    config = policy_config(small, batch_size=batch_size, **changes)
    tx = tx or optax.sgd(0.1)
    update = make_update(config, judge(graphdef), tx, lambda step: jnp.float32(step))
    start = trained(jax.tree.map(jnp.copy, params), small, value=changes.get("method") != "grpo")
    state = PolicyState(start, tx.init(start), jnp.zeros((), jnp.int32))
    reference = params if reference is None else reference
    return params, *update(state, reference, (), rollout, np.int32(3))


@pytest.mark.parametrize("loss_mean", ["answer", pytest.param("token", marks=pytest.mark.slow)])
def test_one_step_of_grpo_is_a_policy_gradient(model, small, rollout, loss_mean):
    """At pi = pi_old the clipped loss has the gradient of -A log pi, whatever the clip."""
    graphdef, params = model
    _, state, metrics = updated(
        *(model, small, rollout),
        method="grpo", group_size=2, epochs=1, advantages="centred", loss_mean=loss_mean,
    )  # fmt: skip
    real = real_tokens(rollout)
    weight = jnp.where(real, group_advantages(rollout.reward_B, 2, divide=False)[:, None], 0)
    weight /= {
        "answer": 4 * rollout.answer_B[:, None].astype(jnp.float32),
        "token": jnp.sum(rollout.answer_B).astype(jnp.float32),
    }[loss_mean]

    def loss(params):
        return -jnp.sum(weight * judge(graphdef)({"policy": params}, (), rollout).log_prob_BA)

    grads = jax.jit(jax.grad(loss))(params)
    want = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.trained["policy"], want
    )
    assert float(metrics["log_prob_gap"]) < 1e-5
    np.testing.assert_allclose(metrics["kl_reference"], 0, atol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-4)


def test_values_are_learned_and_epochs_move_the_policy(model, small, rollout):
    """PPO, whose reference is another model."""
    other = split_model(small, seed=1)[1]
    _, state, metrics = updated(model, small, rollout, reference=other, batch_size=2, epochs=4)
    assert float(metrics["kl_reference"]) > 1e-3
    assert float(metrics["kl"]) > 0
    assert int(metrics["skipped"]) == 0
    assert float(jnp.abs(state.trained["value"]["bias"])) > 0
    assert float(metrics["value_loss"]) > 0
    assert float(metrics["learning_rate"]) == 4 * 8 - 1  # that of the last update of iteration 3


def test_terms_hold_the_policy(model, small, rollout):
    """PFO its features, KL its probabilities; a KL of 0 and no PFO are no terms at all."""
    many = {"batch_size": 2, "epochs": 8, "tx": adam()}
    _, _, loose = updated(model, small, rollout, pfo=1e-6, **many)
    _, _, held = updated(model, small, rollout, pfo=100.0, **many)
    assert float(held["feature_loss"]) < 0.7 * float(loose["feature_loss"])
    _, _, near = updated(model, small, rollout, kl=100.0, **many)
    assert "feature_loss" not in near
    assert float(near["kl"]) < 0.7 * float(loose["kl"])


def test_what_is_not_finite_is_skipped(model, small, rollout):
    bad = rollout._replace(reward_B=rollout.reward_B.at[0].set(jnp.inf))
    before, state, metrics = updated(model, small, bad, batch_size=4, epochs=2)
    assert int(metrics["skipped"]) == 2
    jax.tree.map(np.testing.assert_array_equal, state.trained["policy"], before)
