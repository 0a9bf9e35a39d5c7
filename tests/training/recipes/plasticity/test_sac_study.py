# SPDX-License-Identifier: Apache-2.0
"""SAC with the probe: it leaves the run as it is, and tells a critic that can learn nothing."""

import jax
import jax.numpy as jnp

from tests.drawn import normal
from tests.training.recipes.rl.test_sac import CHOICES, POLICY, Goal
from training.recipes.experiment import Cell
from training.recipes.plasticity.agent_study import conclude_agents
from training.recipes.plasticity.sac_study import SAC_STUDY, measure, plasticity, sac_arms
from training.recipes.rl.replay import added
from training.recipes.rl.sac import SAC, SACArm, Transition


def test_a_small_one(tmp_path):
    """The numbers of a run are the same with and without the probe."""
    arm = SACArm(choices=CHOICES, environment="goal", steps=400, measured=2)
    cell = Cell("Goal/plain", arm, 0)
    (_, numbers), *_ = measure([cell], tmp_path, steps=20, rows=64, make=Goal)
    curves = numbers["measured"]
    assert all(len(curve) == 2 for curve in curves.values())
    assert all(value > 0 for name in ("probe", "fresh_probe") for value in curves[name])
    assert "Goal/plain: return" in conclude_agents({"Goal/plain": [numbers] * 2}).verdict


def test_a_critic_whose_units_are_dead_learns_less():
    agent = SAC(CHOICES, (1, 1, 1), POLICY)
    state = agent.start(jax.random.key(0))
    rows = Transition(
        normal(1, (64, 1, 1, 1)),
        normal(2, (64, 1)),
        jnp.zeros(64),
        jnp.zeros(64, bool),
        jnp.zeros((64, 1, 1, 1)),
    )
    for first in range(0, 64, 4):
        some = jax.tree.map(lambda x, first=first: x[first : first + 4], rows)
        state = state._replace(buffer=added(state.buffer, some))

    def of(path: tuple, x: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        return x - 100 if "bias" in name and "head" not in name else x

    dead = jax.tree_util.tree_map_with_path(of, state.critics)
    sound, broken = (
        plasticity(agent, 200, 64, state._replace(critics=critics), jax.random.key(3))
        for critics in (state.critics, dead)
    )
    assert sound["dead"] < 0.5
    assert broken["dead"] == 1
    assert broken["probe"] > 1.2 * broken["fresh_probe"]
    assert sound["probe"] < 1.2 * sound["fresh_probe"]


def test_arms():
    assert SAC_STUDY.arms == sac_arms(widths=(256, 256), steps=100_000, measured=20)
    both = SAC_STUDY.arms["Hopper/layer norm"].choices
    assert both.actor.style.norm == both.critic.style.norm == "layer"
    assert SAC_STUDY.arms["Hopper/layer norm in critics"].choices.actor.style.norm == "none"
