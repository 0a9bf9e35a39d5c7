# SPDX-License-Identifier: Apache-2.0
"""What "No Representation, No Trust" measures of an agent, with its definitions (arXiv 2405.00662
and its code): of a whole rollout, before and after the epochs on it.

    before = representation(agent, state, rollout)
    trust = trust_region(agent, old_state, state, rollout)

Legend: N steps of a rollout, O outputs, F features.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eval.diagnostics.representation import dead, features_of, ranks, units_of
from training.finetuning.policy_losses import ratio_of
from training.recipes.rl.ppo import PPO, AgentState, Judged, Rollout, as_floats, flat

FLAT_TANH = 1e-3  # standard deviation over the rollout below which a tanh unit counts as dead


def representation(agent: PPO, state: AgentState, rollout: Rollout) -> dict[str, jax.Array]:
    """Of the actor's features, and of the critic's (critic_...): all ranks, dead units, norm of
    the pre-activations; and the variance of the policy over states. NaN: fewer steps than
    features."""
    observation = flat(rollout.observation)
    judged = agent.judge(state.actor, observation)
    numbers = _features(agent, judged.pre_activation, judged.features)
    if not agent.choices.shared:
        outputs = agent.critic.apply(state.critic, {}, as_floats(observation))
        z_NF = list(outputs.hidden.values())[-1].z
        critic = _features(agent, z_NF, outputs.features_BF)
        numbers |= {f"critic_{name}": value for name, value in critic.items()}
    parameters_NA = agent.policy.parameters(judged.outputs)
    return {**numbers, "policy_variance": jnp.mean(jnp.var(parameters_NA, 0, ddof=1))}


def trust_region(
    agent: PPO, old: AgentState, new: AgentState, rollout: Rollout
) -> dict[str, jax.Array]:
    """How far the epochs have moved the policy, on all steps of the rollout: KL(old || new),
    exact; the share of steps outside of the clip; the mean ratio of those below 1 - clip and of
    those above 1 + clip, and the excess ratio, above over below (NaN where there are none)."""
    observation, drawn = flat(rollout.observation), flat(rollout.drawn)
    before, after = (agent.judge(one.actor, observation) for one in (old, new))
    log_ratio_N = agent.policy.log_prob(after.outputs, drawn) - agent.policy.log_prob(
        before.outputs, drawn
    )
    ratio_N = ratio_of(log_ratio_N)
    clip = agent.choices.clip
    below = _mean_where(ratio_N, ratio_N < 1 - clip)
    above = _mean_where(ratio_N, ratio_N > 1 + clip)
    return {
        "kl": jnp.mean(agent.policy.kl(before.outputs, after.outputs)),
        "ratio_below": below,
        "ratio_above": above,
        "excess_ratio": above / below,
        "clipped": jnp.mean((jnp.abs(ratio_N - 1) > clip).astype(jnp.float32)),
        "feature_change": _change(before, after),
    }


def _features(agent: PPO, z: jax.Array, features_NF: jax.Array) -> dict[str, jax.Array]:
    z_NF = z.reshape(z.shape[0], -1)
    units = units_of(z_NF, features_NF)
    config: Any = agent.choices.actor
    if config.style.activation == "tanh":
        lifeless_F = jnp.std(features_NF, 0, ddof=1) < FLAT_TANH
    elif config.style.activation == "leaky_relu":
        lifeless_F = units.high_F < 0
    else:
        lifeless_F = dead(units)
    return {
        **ranks(features_of(features_NF)),
        "dead": jnp.sum(lifeless_F, dtype=jnp.float32),
        "pre_activation_norm": units.norm,
    }


def _change(before: Judged, after: Judged) -> jax.Array:
    return jnp.mean(jnp.square(after.pre_activation - before.pre_activation))


def _mean_where(x_N: jax.Array, mask_N: jax.Array) -> jax.Array:
    count = jnp.sum(mask_N, dtype=jnp.float32)
    mean = jnp.sum(jnp.where(mask_N, x_N, 0)) / jnp.maximum(count, 1)
    return jnp.where(count > 0, mean, jnp.nan)
