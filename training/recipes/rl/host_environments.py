# SPDX-License-Identifier: Apache-2.0
"""Environments outside of the program, through gymnasium's vector interface: MuJoCo, Atari, or any
name that gymnasium knows.

    with gymnasium_environments("Hopper-v5", 2, seed=0) as environments:
        observation_B = environments.reset()
        stepped = environments.step(action_B)               # NumPy arrays, a row an environment

MuJoCo's observations are standardised by what random actions have met at the start, and the time of
the episode is appended, as in "No Representation, No Trust" (arXiv 2405.00662). Atari is the
paper's: 84 x 84 in grey, 4 frames, 3 frames a step, sticky actions, rewards' signs, no random start
and no end at a lost life. Legend: B environments, D numbers of an observation.
"""

import abc
import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from recurrentgemma.errors import UserError
from training.recipes.rl.distributions import Distribution
from training.recipes.rl.environments import EXTRA, Stepped, image_shape, policy_of

ATARI = "ALE/"
RANDOM_STEPS = 1000  # of each environment, for the mean and deviation of observations
LEAST_STD = 1e-6


class HostEnvironments:
    """See the module; of vectors of numbers. Use as a context: some run threads.

    scale: (mean_D, std_D), where they are known already.
    """

    def __init__(
        self,
        inner: Any,
        policy: Distribution,
        *,
        seed: int,
        time_limit: int,
        scale: tuple[np.ndarray, np.ndarray] | None = None,
    ):
        self.inner, self.policy, self.seed, self.time_limit = inner, policy, seed, time_limit
        self.observation_shape = image_shape((inner.single_observation_space.shape[0] + 1,))
        self.elapsed_B = np.zeros(inner.num_envs, np.int64)
        self.scale = self._measured() if scale is None else scale

    def __enter__(self) -> "HostEnvironments":
        return self

    def __exit__(self, *unused: object) -> None:
        self.inner.close()

    def reset(self) -> np.ndarray:
        """New episodes everywhere: [B, 1, 1, D + 1]."""
        observation_BD, _ = self.inner.reset(seed=self.seed)
        self.elapsed_B[:] = 0
        return self._seen(observation_BD, self.elapsed_B)

    def step(self, action_B: np.ndarray) -> Stepped:
        """A step of each; where an episode has ended, the next one's beginning."""
        observation_BD, reward_B, terminated_B, truncated_B, info = self.inner.step(action_B)
        self.elapsed_B += 1
        final_B, done_B = observation_BD, terminated_B | truncated_B
        if done_B.any():
            final_B = observation_BD.copy()
            for row in np.flatnonzero(done_B):
                final_B[row] = info["final_obs"][row]
        final = self._seen(final_B, self.elapsed_B)
        self.elapsed_B[done_B] = 0
        return Stepped(
            self._seen(observation_BD, self.elapsed_B),
            reward_B.astype(np.float32),
            terminated_B,
            truncated_B,
            final,
        )

    def snapshot(self) -> dict[str, Any]:
        """What `restore` takes, as JSON; arrays as lists."""
        return {
            "elapsed": self.elapsed_B.tolist(),
            "scale": [part.tolist() for part in self.scale],
            "each": [_physics(one) for one in self.inner.envs],
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on where a snapshot was taken; observations are those of the step before it."""
        self.inner.reset(seed=self.seed)
        mean, std = (np.asarray(part) for part in kept["scale"])
        self.scale = mean, std
        self.elapsed_B[:] = kept["elapsed"]
        for one, physics in zip(self.inner.envs, kept["each"], strict=True):
            _set_physics(one, physics)

    def _seen(self, observation_BD: np.ndarray, elapsed_B: np.ndarray) -> np.ndarray:
        mean_D, std_D = self.scale
        time_B1 = (elapsed_B / self.time_limit)[:, None]
        seen = np.concatenate([(observation_BD - mean_D) / std_D, time_B1], -1)
        return seen.astype(np.float32)[:, None, None]

    def _measured(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of observations under random actions."""
        self.inner.action_space.seed(self.seed)
        met = [self.inner.reset(seed=self.seed)[0]]
        for _ in range(RANDOM_STEPS):
            met.append(self.inner.step(self.inner.action_space.sample())[0])
        rows = np.concatenate(met)
        return rows.mean(0), np.maximum(rows.std(0), LEAST_STD)


class BegunAnew(abc.ABC):
    """Environments whose state is not kept: a run that goes on has new episodes."""

    @abc.abstractmethod
    def reset(self) -> np.ndarray:
        """New episodes everywhere."""

    def snapshot(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, kept: dict[str, Any]) -> None:
        """New episodes."""
        del kept
        self.reset()


class AtariEnvironments(BegunAnew):
    """See the module; of ale-py's own vector environment, whose state cannot be saved: after
    `restore` episodes begin anew."""

    def __init__(self, inner: Any, policy: Distribution, *, seed: int):
        self.inner, self.policy, self.seed = inner, policy, seed
        self.observation_shape = (84, 84, 4)

    def __enter__(self) -> "AtariEnvironments":
        return self

    def __exit__(self, *unused: object) -> None:
        self.inner.close()

    def reset(self) -> np.ndarray:
        """New episodes everywhere: uint8 [B, 84, 84, 4]."""
        return _pictures(self.inner.reset(seed=self.seed)[0])

    def step(self, action_B: np.ndarray) -> Stepped:
        """A step of each; where an episode has ended, the next one's beginning."""
        observation, reward_B, terminated_B, truncated_B, info = self.inner.step(action_B)
        seen = _pictures(observation)
        final = _pictures(info["final_obs"]) if "final_obs" in info else seen
        reward_B = np.asarray(reward_B, np.float32)
        return Stepped(seen, reward_B, np.asarray(terminated_B), np.asarray(truncated_B), final)


def gymnasium_environments(
    name: str, count: int, *, seed: int
) -> HostEnvironments | AtariEnvironments:
    """`count` environments of a name.

    Raises UserError: a package is not installed; there is no such environment; its observations or
    actions are of a kind that no agent here has.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise UserError(f"{name}: gymnasium is not installed ({error}): {EXTRA}") from None
    if name.startswith(ATARI):
        return _atari(name, count, seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # versions of an environment
            inner = gymnasium.make_vec(
                name,
                num_envs=count,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
            )
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(f"{name}: {str(error).splitlines()[0]}: {EXTRA}") from None
    except gymnasium.error.Error as error:
        raise UserError(f"{name!r} is no environment of gymnasium ({error})") from None
    space: Any = inner.single_observation_space
    if type(space).__name__ != "Box" or len(space.shape) != 1:
        inner.close()
        raise UserError(f"{name} has observations of {space}: expected a Box of one axis, or Atari")
    policy = policy_of(inner.single_action_space, name)
    limit = inner.spec.max_episode_steps if inner.spec else None
    return HostEnvironments(inner, policy, seed=seed, time_limit=limit or 1000)


def _atari(name: str, count: int, seed: int) -> AtariEnvironments:
    try:
        from ale_py.vector_env import AtariVectorEnv
        from gymnasium.vector import AutoresetMode
    except ImportError as error:
        raise UserError(f"{name}: ale-py is not installed ({error}): {EXTRA}") from None
    game = name.removeprefix(ATARI).rsplit("-", 1)[0]
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in game).lstrip("_")
    try:
        inner = AtariVectorEnv(
            snake,
            count,
            num_threads=1,
            repeat_action_probability=0.25,
            autoreset_mode=AutoresetMode.SAME_STEP,
            frameskip=3,
            noop_max=0,
            use_fire_reset=False,
        )
    except Exception as error:  # ale-py raises bare exceptions of its own for an unknown game
        raise UserError(f"{name!r} is no game of ale-py ({error})") from error
    return AtariEnvironments(inner, policy_of(inner.single_action_space, name), seed=seed)


def _pictures(observation_BCHW: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(observation_BCHW), 1, -1)


def _physics(environment: Any) -> dict[str, Any]:
    """What MuJoCo and gymnasium hold of an episode."""
    inner = environment.unwrapped
    if not hasattr(inner, "data"):
        raise UserError(f"{inner.spec.id}: only MuJoCo's state can be saved, to go on with later")
    mujoco: Any = importlib.import_module("mujoco")
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.zeros(mujoco.mj_stateSize(inner.model, kind))
    mujoco.mj_getState(inner.model, inner.data, state, kind)
    steps = [layer._elapsed_steps for layer in _layers(environment)]
    random = inner.np_random.bit_generator.state
    return {"state": state.tolist(), "steps": steps, "random": random}


def _set_physics(environment: Any, kept: dict[str, Any]) -> None:
    mujoco: Any = importlib.import_module("mujoco")
    inner = environment.unwrapped
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    mujoco.mj_setState(inner.model, inner.data, np.asarray(kept["state"]), kind)
    for layer, steps in zip(_layers(environment), kept["steps"], strict=True):
        layer._elapsed_steps = steps
    inner.np_random.bit_generator.state = kept["random"]


def _layers(environment: Any) -> Sequence[Any]:
    """The wrappers that count steps."""
    layers, one = [], environment
    while one is not environment.unwrapped:
        if "_elapsed_steps" in vars(one):
            layers.append(one)
        one = one.env
    return layers
