# SPDX-License-Identifier: Apache-2.0
"""An agent that remembers learns what one without memory cannot."""

import jax
import pytest

from recurrentgemma.errors import UserError
from training.recipes.memory.tmaze import TMaze
from training.recipes.rl.cores import CoreConfig, CoreKind
from training.recipes.rl.recurrent_ppo import RecurrentChoices, RecurrentPPO


@pytest.mark.parametrize("kind", ["hawk", "none"])
def test_a_cue_is_remembered(kind: CoreKind):
    core = CoreConfig(kind=kind, width=16, blocks=1)
    choices = RecurrentChoices(core=core, environments=32, rollout=16, rows=8, learning_rate=5e-3)
    agent = RecurrentPPO(choices, TMaze(2))
    state = jax.jit(agent.start)(jax.random.key(0))
    iteration = jax.jit(agent.iteration)
    for number in range(50):
        state, logged = iteration(state, jax.random.key(number))
    solved = float(logged["solved"])
    assert solved > 0.95 if kind == "hawk" else 0.3 < solved < 0.7


def test_rows_that_do_not_divide():
    with pytest.raises(UserError, match="rows=5 does not divide the 64 environments"):
        RecurrentChoices(core=CoreConfig(kind="lstm"), rows=5)
