# SPDX-License-Identifier: Apache-2.0
"""MuJoCo and Atari through gymnasium: what agents see, episodes that end, and going on later."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.rl.distributions import Categorical, TanhNormal
from training.recipes.rl.host_environments import gymnasium_environments

pytest.importorskip("mujoco", reason="mujoco is not installed here")
pytest.importorskip("ale_py", reason="ale-py is not installed here")


def test_hopper_goes_on_where_a_snapshot_was_taken():
    action = np.array([[0.3, -0.2, 0.1], [-1.0, 1.0, 0.5]], np.float32)
    with gymnasium_environments("Hopper-v5", 2, seed=3) as environments:
        assert isinstance(environments.policy, TanhNormal)
        first = environments.reset()
        assert first.shape == (2, *environments.observation_shape) == (2, 1, 1, 12)
        assert first[0, 0, 0, -1] == 0  # the time
        for _ in range(5):
            environments.step(action)
        kept = environments.snapshot()
        steps = [environments.step(action) for _ in range(60)]
    done = np.array([one.terminated | one.truncated for one in steps])
    assert done.any()  # the second falls
    number, row = np.argwhere(done)[0]
    assert steps[number].observation[row, 0, 0, -1] == 0
    assert steps[number].final_observation[row, 0, 0, -1] > 0
    with gymnasium_environments("Hopper-v5", 2, seed=4) as again:
        again.restore(kept)
        for one in steps[: number + 1]:
            stepped = again.step(action)
            np.testing.assert_allclose(stepped.observation, one.observation, atol=1e-6)
            np.testing.assert_allclose(stepped.reward, one.reward, atol=1e-6)


def test_phoenix_is_seen_as_in_the_paper():
    with gymnasium_environments("ALE/Phoenix-v5", 2, seed=0) as environments:
        assert environments.policy == Categorical(actions=8)
        observation = environments.reset()
        assert (observation.shape, observation.dtype) == ((2, 84, 84, 4), np.uint8)
        stepped = environments.step(np.array([0, 1], np.int32))
        assert stepped.observation.shape == observation.shape
        assert stepped.reward.dtype == np.float32
        assert environments.snapshot() == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Hoper-v5", "is no environment of gymnasium"),
        ("ALE/Fenix-v5", "is no game of ale-py"),
        ("CliffWalking-v1", "expected a Box of one axis"),
    ],
)
def test_what_is_not_there(name, message):
    with pytest.raises(UserError, match=message):
        gymnasium_environments(name, 1, seed=0)
