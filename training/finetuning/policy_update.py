# SPDX-License-Identifier: Apache-2.0
"""The update of an iteration: all epochs and minibatches on a rollout as one program.

    update = make_update(config, judge, tx)                          # config: TrainConfig
    state, metrics = update(state, reference, frozen, rollout, number)     # of the iteration

With pi_old the policy that drew the rollout, over the tokens of each minibatch:

    L = mean[clipped_loss(log pi / pi_old, A)] + kl mean[k3(pi, pi_ref)] - entropy mean[H(pi)]
        + pfo mean[(phi - phi_old)^2] + value_coefficient 1/2 mean[(V - (A_old + V_old))^2]

`mean` is the mean over answers of that over their tokens, or over tokens (loss_mean). A: of PPO,
generalised advantage estimates with the reward at an answer's last token and no discount, less
their mean over the minibatch's tokens; of GRPO the same for all tokens of an answer, its reward
less the mean of its group's (policy_losses.py). Both over their standard deviation, unless
advantages are "centred". pi_old's log-probabilities are those with which the tokens were drawn;
phi_old, V_old and pi_ref's are computed once, before the first epoch.

Legend: N answers of a rollout, B of a minibatch, A tokens of an answer, D width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from training.configs import TrainConfig
from training.finetuning.advantages import advantages
from training.finetuning.policy import Judge, Judged, real_tokens
from training.finetuning.policy_config import PolicyConfig
from training.finetuning.policy_losses import (
    clipped_loss,
    divergence,
    feature_loss,
    group_advantages,
    mean_where,
    standardised_where,
)
from training.finetuning.policy_metrics import trust_region
from training.finetuning.rollout import Rollout

Metrics = dict[str, jax.Array]


class PolicyState(NamedTuple):
    """All that an update changes. skipped: minibatches so far whose gradients were not finite."""

    trained: Any
    opt_state: Any
    skipped: jax.Array  # int32


class _Fixed(NamedTuple):
    """Of a rollout, for all its epochs; [N, ...]."""

    rollout: Rollout
    advantage_NA: jax.Array
    target_NA: jax.Array  # of the values
    reference_NA: jax.Array
    features_NAD: Any  # None without PFO


def make_update(
    config: TrainConfig,
    judge: Judge,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule | None = None,
) -> Callable[..., tuple[PolicyState, Metrics]]:
    """The jitted update. It donates the state.

    metrics, float32 scalars: of the rollout before the epochs `entropy`, `kl_reference` (k3, a
    token) and `log_prob_gap` (the mean difference of the log-probabilities with which its tokens
    were drawn from those that training computes of the same parameters); after them
    policy_metrics.trust_region; means over the minibatches of the losses by name and of
    `grad_norm`; `learning_rate`; int32 `skipped`.
    """
    policy = config.policy
    assert policy is not None
    size = config.batch_size

    def update(
        state: PolicyState, reference: Any, frozen: Any, rollout: Rollout, number: jax.Array
    ) -> tuple[PolicyState, Metrics]:
        old = judge_all(judge, state.trained, frozen, rollout, size)
        reference_NA = judge_all(judge, {"policy": reference}, frozen, rollout, size).log_prob_BA
        real_NA = real_tokens(rollout)
        fixed = _fixed(policy, rollout, old, reference_NA)
        count = rollout.reward_B.shape[0]

        def minibatch(state: PolicyState, rows_B: jax.Array) -> tuple[PolicyState, Metrics]:
            batch = jax.tree.map(lambda x: x[rows_B], fixed)
            return _step(policy, judge, tx, state, frozen, batch)

        def epoch(state: PolicyState, key: jax.Array) -> tuple[PolicyState, Metrics]:
            order = jax.random.permutation(key, count).reshape(-1, size)
            return jax.lax.scan(minibatch, state, order)

        key = jax.random.fold_in(jax.random.key(config.seed), number)
        state, losses = jax.lax.scan(epoch, state, jax.random.split(key, policy.epochs))
        new_NA = judge_all(judge, state.trained, frozen, rollout, size).log_prob_BA
        gap_NA = jnp.abs(old.log_prob_BA - rollout.log_prob_BA)
        metrics = {
            "entropy": mean_where(old.entropy_BA, real_NA),
            "kl_reference": mean_where(divergence(old.log_prob_BA, reference_NA), real_NA),
            "log_prob_gap": mean_where(gap_NA, real_NA),
            **trust_region(new_NA - rollout.log_prob_BA, real_NA, policy.clip),
            **jax.tree.map(jnp.mean, losses),
            "skipped": state.skipped,
        }
        if policy.method == "ppo":
            metrics["explained"] = _explained(old.value_BA, fixed.target_NA, real_NA)
        if schedule is not None:
            last = (number + 1) * policy.updates(size) - state.skipped - 1
            metrics["learning_rate"] = jnp.asarray(schedule(jnp.maximum(last, 0)))
        return state, metrics

    return jax.jit(update, donate_argnums=0)


def judge_all(judge: Judge, trained: Any, frozen: Any, rollout: Rollout, size: int) -> Judged:
    """Of all rows of a rollout, `size` at a time and without gradients."""
    parts = jax.tree.map(lambda x: jnp.asarray(x).reshape(-1, size, *x.shape[1:]), rollout)
    judged = jax.lax.map(lambda part: judge(trained, frozen, part), parts)
    return jax.lax.stop_gradient(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), judged))


def _fixed(policy: PolicyConfig, rollout: Rollout, old: Judged, reference_NA: jax.Array) -> _Fixed:
    real_NA = real_tokens(rollout)
    features_NAD = old.features_BAD if policy.pfo else None
    if policy.method == "grpo":
        divide = policy.advantages == "standardised"
        advantage_N = group_advantages(rollout.reward_B, policy.group_size, divide=divide)
        advantage_NA = jnp.where(real_NA, advantage_N[:, None], 0)
        return _Fixed(rollout, advantage_NA, jnp.zeros_like(advantage_NA), reference_NA,
                      features_NAD)  # fmt: skip
    place_A = jnp.arange(real_NA.shape[1], dtype=jnp.int32)
    last_NA = place_A[None] == rollout.answer_B[:, None] - 1
    value_NA = jnp.where(real_NA, old.value_BA, 0)
    advantage_AN = advantages(
        jnp.where(last_NA, rollout.reward_B[:, None], 0).T,
        value_NA.T,
        (last_NA | ~real_NA).T,
        jnp.zeros(real_NA.shape[0]),
        discount=1.0,
        trace=policy.trace,
    )
    return _Fixed(rollout, advantage_AN.T, advantage_AN.T + value_NA, reference_NA, features_NAD)


def _step(
    policy: PolicyConfig,
    judge: Judge,
    tx: optax.GradientTransformation,
    state: PolicyState,
    frozen: Any,
    batch: _Fixed,
) -> tuple[PolicyState, Metrics]:
    """One minibatch."""
    real_BA = real_tokens(batch.rollout)
    advantage_BA = batch.advantage_NA
    if policy.method == "ppo":
        divide = policy.advantages == "standardised"
        advantage_BA = standardised_where(advantage_BA, real_BA, divide=divide)

    def mean(x_BA: jax.Array) -> jax.Array:
        return mean_where(x_BA, real_BA, policy.loss_mean)

    def loss_fn(trained: Any) -> tuple[jax.Array, Metrics]:
        new = judge(trained, frozen, batch.rollout)
        log_ratio_BA = jnp.where(real_BA, new.log_prob_BA - batch.rollout.log_prob_BA, 0)
        named = {"policy_loss": mean(clipped_loss(log_ratio_BA, advantage_BA, policy.clip))}
        loss = named["policy_loss"]
        if policy.kl:
            log_prob_BA = jnp.where(real_BA, new.log_prob_BA, batch.reference_NA)
            named["kl_loss"] = mean(divergence(log_prob_BA, batch.reference_NA))
            loss += policy.kl * named["kl_loss"]
        if policy.entropy:
            loss -= policy.entropy * mean(new.entropy_BA)
        if policy.pfo:
            named["feature_loss"] = mean(feature_loss(new.features_BAD, batch.features_NAD))
            loss += policy.pfo * named["feature_loss"]
        if policy.method == "ppo":
            named["value_loss"] = 0.5 * mean(jnp.square(new.value_BA - batch.target_NA))
            loss += policy.value_coefficient * named["value_loss"]
        return loss, named

    (loss, named), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.trained)
    grad_norm = optax.tree.norm(grads)
    is_finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    updates, opt_state = tx.update(grads, state.opt_state, state.trained)
    stepped = (optax.apply_updates(state.trained, updates), opt_state)
    trained, opt_state = jax.tree.map(
        lambda new, old: jnp.where(is_finite, new, old), stepped, (state.trained, state.opt_state)
    )
    skipped = state.skipped + (~is_finite).astype(jnp.int32)
    return PolicyState(trained, opt_state, skipped), {**named, "grad_norm": grad_norm}


def _explained(value_NA: jax.Array, target_NA: jax.Array, real_NA: jax.Array) -> jax.Array:
    """The share of the targets' variance that the values explain; NaN where they do not vary."""

    def variance(x_NA: jax.Array) -> jax.Array:
        return mean_where(jnp.square(x_NA - mean_where(x_NA, real_NA)), real_NA)

    spread = variance(target_NA)
    return jnp.where(spread > 0, 1 - variance(target_NA - value_NA) / spread, jnp.nan)
