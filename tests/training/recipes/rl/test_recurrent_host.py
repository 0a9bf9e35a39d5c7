# SPDX-License-Identifier: Apache-2.0
"""An agent that remembers learns what a step far back said; its teacher steps beside it, and what
is frozen stays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eval.dynamic.retention import categorical_kl
from recurrentgemma.errors import UserError
from tests.training.recipes.rl.corridors import Corridors
from training.recipes.rl.cores import CoreConfig, core_of
from training.recipes.rl.distributions import Categorical
from training.recipes.rl.host_loop import HostLoop, Schedule
from training.recipes.rl.recurrent_host import MemoryChoices, RecurrentHost, drawn_rows

CHOICES = MemoryChoices(
    environments=16,
    rollout=12,
    rows=8,
    epochs=4,
    learning_rate=1e-2,
    discount=0.9,
    entropy=0.01,
    clip=0.2,
)
SCHEDULE = Schedule(environments=16, rollout=12, steps=16 * 12 * 30, measured=2)


class Small(nnx.Module):
    def __init__(self, kind, rngs):
        self.encoder = nnx.Linear(2, 16, rngs=rngs)
        self.core = core_of(CoreConfig(kind=kind, width=16, blocks=1), rngs=rngs)
        self.actor = nnx.Linear(16, 2, rngs=rngs)
        self.critic = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x_BT2, memory, first_BT):
        y_BTD, memory = self.core(jnp.tanh(self.encoder(x_BT2)), memory, first_BT)
        return self.actor(y_BTD), self.critic(y_BTD)[..., 0], memory


def agent(kind="lstm", choices=CHOICES, **options):
    return RecurrentHost(choices, lambda rngs: Small(kind, rngs), Categorical(actions=2), **options)


def trained(learner, tmp_path, schedule=SCHEDULE, **options):
    loop = HostLoop(learner, lambda seed: Corridors(schedule.environments, seed), schedule)
    return list(loop.records(tmp_path, 0, "test", **options)), loop.state


@pytest.mark.parametrize("kind", ["lstm", "hawk"])
def test_a_cue_is_remembered(kind, tmp_path):
    records, state = trained(agent(kind), tmp_path)
    assert records[-1]["return"] > 0.9
    assert float(state.returns.count) == 16 * 12 * 30
    assert {"loss", "policy_loss", "value_loss", "entropy"} <= set(records[-1])


def test_a_new_policy_that_is_held_to_a_teacher_becomes_like_it(tmp_path):
    teacher = agent().start(jax.random.key(7)).params
    teacher = jax.tree.map(lambda x: 3 * x, teacher)

    def held(params, outputs_RTO, row, beside, number):
        assert beside["rows"].shape == (4, 3)
        del params, number
        return 50.0 * jnp.mean(categorical_kl(row.kept.teacher, outputs_RTO))

    stored = {"rows": np.arange(30.0).reshape(10, 3)}
    learner = agent(teacher=teacher, held=held, beside=drawn_rows(stored, 4, 0))
    schedule = dataclasses.replace(SCHEDULE, measured=6)
    records, _ = trained(learner, tmp_path, schedule)
    assert records[-1]["held_loss"] < 0.3 * records[0]["held_loss"]


def test_a_teachers_memory_is_its_own():
    teacher = agent().start(jax.random.key(7)).params
    learner = agent(teacher=teacher)
    state, memory = learner.start(jax.random.key(0)), learner.remembered(3)
    x_TB2 = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    first_TB = np.zeros((5, 3), bool)
    first_TB[0], first_TB[3, 1] = True, True
    judged = []
    for x_B2, first_B in zip(x_TB2, first_TB, strict=True):
        _, kept, memory = learner.act(state, memory, x_B2, first_B, jax.random.key(1))
        judged.append(kept.teacher)
    whole = learner.judge(
        teacher, jnp.asarray(x_TB2.swapaxes(0, 1)), learner.memory(3), jnp.asarray(first_TB.T)
    )[0]
    np.testing.assert_allclose(np.stack(judged, 1), whole, atol=1e-5)


def test_what_is_frozen_stays(tmp_path):
    frozen = dataclasses.replace(CHOICES, frozen=("encoder", "core", "actor"))
    learner = agent(choices=frozen)
    begun = learner.start(jax.random.key(3))
    schedule = dataclasses.replace(SCHEDULE, steps=16 * 12 * 2, measured=1)
    _, state = trained(learner, tmp_path, schedule, begun=begun)
    moved = {
        name: any(
            np.any(a != b)
            for a, b in zip(
                jax.tree.leaves(begun.params[name]), jax.tree.leaves(module), strict=True
            )
        )
        for name, module in state.params.items()
    }
    assert moved == {"encoder": False, "core": False, "actor": False, "critic": True}


def test_rows_are_drawn_by_the_number_of_an_update():
    drawn = drawn_rows({"x": np.arange(100)}, 5, 0)
    np.testing.assert_array_equal(drawn(3)["x"], drawn(3)["x"])
    assert (drawn(3)["x"] != drawn(4)["x"]).any()


def test_rows_that_do_not_divide():
    with pytest.raises(UserError, match="rows=5 does not divide the 16 environments"):
        dataclasses.replace(CHOICES, rows=5)
