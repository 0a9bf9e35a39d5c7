# SPDX-License-Identifier: Apache-2.0
"""SAC's target by its definition, a task of one step that it solves, and going on after a kill."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrentgemma.errors import UserError
from tests.drawn import normal
from training.recipes.rl import sac
from training.recipes.rl.distributions import Categorical, TanhNormal
from training.recipes.rl.environments import Stepped
from training.recipes.rl.sac import SAC, SACArm, SACChoices, Transition, records
from training.recipes.vision.mlp import MLPConfig

NETWORK = MLPConfig(widths=(32,))
CHOICES = SACChoices(
    actor=NETWORK,
    critic=NETWORK,
    environments=4,
    buffer=2000,
    begin=64,
    batch=64,
    learning_rate=3e-3,
)
POLICY = TanhNormal(low=(-1.0,), high=(1.0,))


class Goal:
    """Each episode is one step: the nearer the action is to half of what is seen, the better."""

    observation_shape, policy = (1, 1, 1), POLICY

    def __init__(self, name, count, *, seed):
        self.count, self.rng = count, np.random.default_rng(seed)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        pass

    def reset(self):
        self.seen = self.rng.uniform(-1, 1, (self.count, 1, 1, 1)).astype(np.float32)
        return self.seen

    def step(self, action_BA):
        before = self.seen
        reward = -np.abs(action_BA[:, 0] - before[:, 0, 0, 0] / 2)
        ended = np.ones(self.count, bool)
        return Stepped(self.reset(), reward.astype(np.float32), ended, ~ended, before)

    def snapshot(self):
        return {"random": self.rng.bit_generator.state, "seen": self.seen.tolist()}

    def restore(self, kept):
        self.rng.bit_generator.state = kept["random"]
        self.seen = np.asarray(kept["seen"], np.float32)


def test_the_target():
    agent = SAC(CHOICES, (1, 1, 1), POLICY)
    state = agent.start(jax.random.key(0))._replace(log_alpha=jnp.log(0.5))
    seen = normal(1, (3, 1, 1, 1))
    ended = jnp.array([True, False, False])
    batch = Transition(seen, jnp.zeros((3, 1)), jnp.ones(3), ended, seen)
    y = agent.target(state, batch, jax.random.key(2))
    outputs = agent.actor.apply(state.actor, {}, seen).outputs_BO
    drawn = POLICY.sample(outputs, jax.random.key(2))
    q = agent.values(state.targets, seen, drawn)
    assert q.shape == (2, 3)
    assert float(jnp.abs(q[0] - q[1]).max()) > 1e-3  # two critics
    soft = q.min(0) - 0.5 * POLICY.log_prob(outputs, drawn)
    np.testing.assert_allclose(y, 1 + 0.99 * jnp.where(ended, 0, soft), rtol=1e-5)


def test_it_learns_and_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    arm = SACArm(choices=CHOICES, environment="goal", steps=1600, measured=4)
    whole = list(records(arm, 0, tmp_path / "whole", make=Goal))
    assert whole[0]["return"] < -0.3
    assert whole[-1]["return"] > -0.15
    monkeypatch.setattr(sac.Saved.__init__, "__kwdefaults__", {"every": 0.0})
    killed = records(arm, 0, tmp_path / "killed", make=Goal)
    for _ in range(3):  # the second is kept before the third begins
        next(killed)
    del killed
    again = list(records(arm, 0, tmp_path / "killed", make=Goal))
    for one, other in zip(whole, again, strict=True):
        assert {**one, "steps_per_second": 0} == {**other, "steps_per_second": 0}


def test_a_term_beside_the_actors_loss_holds_the_actor():
    start = jax.jit(SAC(CHOICES, (1, 1, 1), POLICY).start)(jax.random.key(0))

    def distance(actor) -> jax.Array:
        parts = jax.tree.map(lambda x, x0: jnp.sum(jnp.square(x - x0)), actor, start.actor)
        return sum(jax.tree.leaves(parts), jnp.zeros(()))

    def beside(actor, key) -> jax.Array:
        assert jnp.shape(key) == ()
        return 1e3 * distance(actor)

    def away(**options) -> float:
        state, learn = start, jax.jit(SAC(CHOICES, (1, 1, 1), POLICY, **options).learn)
        for number in range(40):
            key = jax.random.key(number)
            seen = jax.random.normal(key, (4, 1, 1, 1))
            rows = Transition(seen, seen[:, 0, 0], seen[:, 0, 0, 0], jnp.ones(4, bool), seen)
            state, _ = learn(state, rows, key)
        return float(distance(state.actor))

    assert 0 < away(beside=beside) < away() / 3


def test_critics_learn_without_the_actor():
    agent = SAC(CHOICES, (1, 1, 1), POLICY)
    before = state = jax.jit(agent.start)(jax.random.key(0))
    seen = normal(1, (64, 1, 1, 1))
    ended = jnp.ones(64, bool)
    batch = Transition(seen, seen[:, 0, 0], jnp.full(64, 3.0), ended, seen)
    judge, losses = jax.jit(agent.judge), []
    for number in range(200):
        state, loss = judge(state, batch, jax.random.key(number))
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 20
    same = jax.tree.map(lambda x, y: bool((x == y).all()), state.actor, before.actor)
    assert jax.tree.all(same)
    assert float(jnp.mean(agent.values(state.targets, seen, batch.drawn))) > 0.5


def test_what_does_not_fit():
    with pytest.raises(UserError, match="expected continuous actions"):
        SAC(CHOICES, (1, 1, 1), Categorical(actions=2))
    with pytest.raises(UserError, match="is no multiple of the 3 environments"):
        SACChoices(actor=NETWORK, critic=NETWORK, environments=3, buffer=100)
